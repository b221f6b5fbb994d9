"""`generate` unit by unit: the images of the folder route, byte for byte."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.cli.app import app
from clouds_deploy.config.generate import Settings
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation import generate as verb
from clouds_deploy.generation.generate import GenerateWork, generate, run_generate
from clouds_deploy.generation.painter import STREETS, load_painter
from clouds_deploy.jobs.ray import load_runner
from clouds_deploy.jobs.run import run_here
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import find_units
from tests.deadly import Deadly
from tests.generation.test_generate import Scripted

FACTS = {"model": "scripted", "count": 11, "seed": 0, "batch": 3, "attempts": 3}
SCRIPT = {1: ["blank"], 2: ["refused", "blank"], 7: ["refused"] * 3}
SMALL = Settings(height=32, width=64)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verb, "BLOCK", 4)  # of batches of 3: units of 3


def work() -> GenerateWork:
    return GenerateWork(partial(Scripted, SCRIPT), ["a", "b"], FACTS)


@pytest.fixture
def reference(tmp_path: Path) -> dict[str, bytes]:
    run_generate(work(), tmp_path / "reference")
    return made_in(tmp_path / "reference")


def made_in(out: Path) -> dict[str, bytes]:
    """Give images, records of those given up, and the sheet."""
    names = [*(out / "images").iterdir(), *(out / "failed").glob("*"), out / "contact_sheet.png"]
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in names}


def test_the_images_of_the_folder_route(reference: dict[str, bytes], tmp_path: Path) -> None:
    result = run_generate(work(), tmp_path / "out", runner=run_here)
    assert (result["made"], result["images"], result["failed"], result["complete"]) == (10, 10, 1, True)
    assert made_in(tmp_path / "out") == reference
    manifest = read_manifest(tmp_path / "out", "generated")
    assert (manifest["images"], manifest["failed"]) == (10, [7])
    assert {"images/000000.png", "contact_sheet.png", "failed/000007.json"} <= set(manifest["files"])
    assert sorted(p.name for p in (tmp_path / "out" / "records").iterdir())[-1] == "000003.json"
    assert run_generate(work(), tmp_path / "out", runner=run_here)["made"] == 0
    with pytest.raises(CloudsError, match=r"other settings \(seed was 0, now 1\)"):
        run_generate(
            GenerateWork(work().make, ["a"], {**FACTS, "seed": 1}), tmp_path / "out", runner=run_here
        )


def test_shards_and_addresses(reference: dict[str, bytes], tmp_path: Path) -> None:
    run_generate(work(), tmp_path / "tars", shards=True)
    tars = sorted((tmp_path / "tars").glob("*.tar"))
    assert [t.name for t in tars] == [f"{i:06d}.tar" for i in range(4)]
    found = {}
    for path in tars:
        with tarfile.open(path) as tar:
            found |= {m.name: tar.extractfile(m).read() for m in tar}  # type: ignore[union-attr]
    assert found.pop("000007.failed.json") == reference["failed/000007.json"]
    assert {f"images/{name}": data for name, data in found.items()} == {
        name: data for name, data in reference.items() if name.startswith("images/")
    }
    for unit in find_units([tmp_path / "tars"], 1):  # what `predict` does with them
        unit.stage(tmp_path / "staged")
    assert len(list((tmp_path / "staged").iterdir())) == 10

    away = Place(f"memory://{tmp_path.name}/out")
    run_generate(work(), away.address)
    for name in away.files():
        away.fetch(name, tmp_path / "got" / name)
    assert made_in(tmp_path / "got") == reference
    read_manifest(tmp_path / "got", "generated")


def test_a_killed_run_goes_on(reference: dict[str, bytes], tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def killing(*given: Any) -> Iterator[Any]:
        for outcome in run_here(*given):
            yield outcome
            raise Killed

    with pytest.raises(Killed):
        run_generate(work(), tmp_path / "out", runner=killing)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert run_generate(work(), tmp_path / "out", runner=run_here)["made"] == 7
    assert made_in(tmp_path / "out") == reference


def test_the_verb(tmp_path: Path) -> None:
    words = ["generate", "--count", "5", "--batch", "2", "--height", "32", "--width", "64", "--json"]
    for more in ([str(tmp_path / "here")], [f"memory://{tmp_path.name}/there"]):
        done = CliRunner().invoke(app, [*words, "--out", *more], catch_exceptions=False)
        assert json.loads(done.stdout.strip().splitlines()[-1])["images"] == 5
    there = Place(f"memory://{tmp_path.name}/there")
    for name, data in made_in(tmp_path / "here").items():
        assert there.read_bytes(name) == data, name
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "tars"), "--shards"])
    assert (tmp_path / "tars" / "000000.tar").is_file(), done.output
    with pytest.raises(CloudsError, match="share a folder"):
        generate(tmp_path / "x", count=4, shard="0/2", shards=True, settings=SMALL)


class DeadlyGenerate(Deadly, GenerateWork):
    victim = "000002"


@pytest.mark.slow
def test_two_workers_make_the_same_files_though_one_dies(two_machines: Any, tmp_path: Path) -> None:
    generate(tmp_path / "here", count=20, batch=2, settings=SMALL)
    generate(tmp_path / "ray", count=20, batch=2, settings=SMALL, runner="ray")
    assert made_in(tmp_path / "ray") == made_in(tmp_path / "here")

    facts = {**load_painter(STREETS, SMALL).describe(), **FACTS}
    make = partial(load_painter, STREETS, SMALL)
    run_generate(GenerateWork(make, [""], facts), tmp_path / "whole", runner=run_here)
    deadly = DeadlyGenerate(make, [""], facts)
    deadly.marker = tmp_path / "died"
    run_generate(deadly, tmp_path / "out", runner=load_runner("ray"))
    assert deadly.marker.exists()
    sums = [
        {p.relative_to(root): sha256(p) for p in root.rglob("*") if p.is_file() and p.name != "manifest.json"}
        for root in (tmp_path / "out", tmp_path / "whole")
    ]
    assert sums[0] == sums[1]
