"""Images of prompts: by a tiny Stable Diffusion of random weights, by streets; in shards, killed, resumed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clouds_deploy import seeds
from clouds_deploy.artifacts import read_manifest
from clouds_deploy.cli.app import app
from clouds_deploy.config.generate import Settings
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation import images as making
from clouds_deploy.generation.generate import GenerateWork, generate, run_generate
from clouds_deploy.generation.images import fault
from clouds_deploy.generation.painter import load_painter
from tests.deadly import kill, wait_until

SMALL = Settings(height=32, width=64, steps=2)


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("a bus in the rain\n\n  a tram at dawn \na truck in fog\n")
    return path


def pixels(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "images").glob("*.png"))}


def test_images_of_a_pipeline(tiny_diffusion: Path, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = generate(out, prompts=prompts, model=str(tiny_diffusion), count=5, batch=2, settings=SMALL)
    assert (result["made"], result["images"], result["failed"], result["complete"]) == (5, 5, 0, True)
    found = pixels(out)
    assert list(found) == [f"{i:06d}.png" for i in range(5)]
    assert len(set(found.values())) == 5
    with Image.open(out / "images" / "000004.png") as image:
        assert image.size == (64, 32)
        facts = json.loads(image.info["clouds_deploy"])
    assert (facts["prompt"], facts["index"], facts["pipeline"]) == (
        "a tram at dawn",
        4,
        "StableDiffusionPipeline",
    )
    manifest = read_manifest(out, "generated")
    assert manifest["images"] == 5
    assert any(name.startswith("unet/") for name in manifest["sha256"])
    assert Image.open(out / "contact_sheet.png").size[0] > 1000

    again = generate(out, prompts=prompts, model=str(tiny_diffusion), count=5, batch=2, settings=SMALL)
    assert (again["made"], again["images"]) == (0, 5)
    assert pixels(out) == found
    for path in (out / "images" / "000001.png", out / "images" / "000004.png"):
        path.unlink()
    generate(out, prompts=prompts, model=str(tiny_diffusion), count=5, batch=2, settings=SMALL)
    assert pixels(out) == found
    with pytest.raises(CloudsError, match=r"other settings \(seed was 0, now 1\)"):
        generate(out, prompts=prompts, model=str(tiny_diffusion), count=5, batch=2, settings=SMALL, seed=1)


def test_prompt_seed_and_steps_matter(tiny_diffusion: Path) -> None:
    painter = load_painter(str(tiny_diffusion), SMALL)
    first, twin, other = painter.paint(["a bus", "a bus", "a tram"], [1, 2, 1])
    (again,) = painter.paint(["a bus"], [1])
    assert first is not None
    assert np.abs(np.asarray(first, int) - np.asarray(again, int)).max() <= 1
    assert np.asarray(first).tolist() != np.asarray(twin).tolist()
    assert np.asarray(first).tolist() != np.asarray(other).tolist()


class Scripted:
    """Gives what the script says for an image's first, second, ... draw, then good images."""

    def __init__(self, script: dict[int, list[str]]) -> None:
        self.script = script
        self.calls: list[list[int]] = []
        self.known = {seeds.derive(0, i, attempt): (i, attempt) for i in range(20) for attempt in range(5)}

    def describe(self) -> dict[str, Any]:
        return {"model": "scripted"}

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        self.calls.append([self.known[seed][0] for seed in seeds])
        out: list[Image.Image | None] = []
        for seed in seeds:
            index, attempt = self.known[seed]
            what = [*self.script.get(index, []), "good", "good", "good", "good", "good"][attempt]
            noise = np.random.default_rng(seed).integers(0, 256, (8, 16, 3), np.uint8)
            blank = np.full((8, 16, 3), 17, np.uint8)
            out.append(None if what == "refused" else Image.fromarray(blank if what == "blank" else noise))
        return out


def make(painter: Scripted, out: Path, **changes: Any) -> dict[str, Any]:
    chosen: dict[str, Any] = {"count": 7, "seed": 0, "batch": 3, "attempts": 3, **changes}
    shard = chosen.pop("shard", (0, 1))
    facts = {"model": "scripted", **chosen}
    return run_generate(GenerateWork(lambda: painter, ["a", "b"], facts, shard=shard), out)


def test_blank_and_refused_images_are_drawn_again(tmp_path: Path) -> None:
    painter = Scripted({1: ["blank"], 2: ["refused", "blank"], 4: ["refused"] * 3})
    result = make(painter, tmp_path)
    assert (result["images"], result["failed"], result["complete"]) == (6, 1, True)
    assert painter.calls == [[0, 1, 2], [1, 2], [2], [3, 4, 5], [4], [4], [6]]
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "failed").iterdir())
    assert record == {"index": 4, "prompt": "a", "fault": "refused by the safety checker"}
    with Image.open(tmp_path / "images" / "000002.png") as image:
        assert json.loads(image.info["clouds_deploy"])["attempt"] == 2
    assert read_manifest(tmp_path, "generated")["failed"] == [4]
    assert make(Scripted({}), tmp_path)["made"] == 0  # what was given up is not tried again


def test_batches_are_cut_alike_after_a_kill(tmp_path: Path) -> None:
    script = {1: ["blank"], 2: ["refused", "blank"]}
    make(Scripted(script), tmp_path / "whole")
    painter = Scripted(script)
    make(painter, tmp_path / "killed")
    for index in (2, 5):
        (tmp_path / "killed" / "images" / f"{index:06d}.png").unlink()
    painter.calls.clear()
    assert make(painter, tmp_path / "killed")["made"] == 2
    assert painter.calls == [[0, 1, 2], [1, 2], [2], [3, 4, 5]]
    assert pixels(tmp_path / "killed") == pixels(tmp_path / "whole")


def test_shards_make_the_same_images_as_one(tmp_path: Path) -> None:
    whole = make(Scripted({}), tmp_path / "whole")
    first = make(Scripted({}), tmp_path / "parts", shard=(0, 2))
    assert (first["made"], first["complete"]) == (4, False)
    assert not (tmp_path / "parts" / "manifest.json").exists()
    second = make(Scripted({}), tmp_path / "parts", shard=(1, 2))
    assert (second["made"], second["images"], second["complete"]) == (3, whole["images"], True)
    assert pixels(tmp_path / "parts") == pixels(tmp_path / "whole")


@pytest.mark.slow
def test_processes_that_are_killed_end_with_the_same_images(
    tiny_diffusion: Path, prompts: Path, tmp_path: Path
) -> None:
    """200 images by two processes, both killed on the way, against two that nobody disturbed."""

    def start(shard: str) -> subprocess.Popen[bytes]:
        words = ["generate", "--out", str(out), "--count", "200", "--shard", shard, "--batch", "8"]
        words += ["--prompts", str(prompts), "--model", str(tiny_diffusion)]
        words += ["--height", "32", "--width", "64", "--steps", "2"]
        return subprocess.Popen([sys.executable, "-m", "clouds_deploy", *words])

    out, shards = tmp_path / "killed", ("0/2", "1/2")
    both = [start(shard) for shard in shards]
    wait_until(lambda: len(list((out / "images").glob("0*.png"))) >= 20, 120)
    for process in both:
        kill(process)
    assert 20 <= len(pixels(out)) < 200
    both = [start(shard) for shard in shards]
    assert [process.wait(120) for process in both] == [0, 0]
    assert read_manifest(out, "generated")["images"] == 200
    assert not list(out.rglob("*.tmp-*"))
    for shard in shards:
        generate(
            tmp_path / "whole", prompts=prompts, model=str(tiny_diffusion), count=200, shard=shard, batch=8,
            settings=SMALL,
        )  # fmt: skip
    assert pixels(out) == pixels(tmp_path / "whole")


def test_streets_say_that_they_are_drawn(tmp_path: Path) -> None:
    settings = Settings(height=32, width=64)
    result = generate(tmp_path / "out", count=3, settings=settings)
    assert result["model"] == "streets/imagined"
    assert "not by a diffusion model" in read_manifest(tmp_path / "out", "generated")["note"]
    with Image.open(tmp_path / "out" / "images" / "000000.png") as image:
        assert "not by a diffusion model" in json.loads(image.info["clouds_deploy"])["note"]


def test_faults() -> None:
    assert fault(None) == "refused by the safety checker"
    assert fault(Image.new("RGB", (8, 8), (200, 10, 10))) == "blank"
    assert fault(Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8))) is None
    assert len({seeds.derive(s, i, a) for s in range(3) for i in range(3) for a in range(3)}) == 27


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": None}, "number of images"),
        ({"model": "some/model"}, "needs prompts"),
        ({"shard": "2/2"}, "no shard"),
        ({"shard": "x"}, "no shard"),
        ({"batch": 0}, "at least"),
        ({"prompts": "nowhere.txt"}, "holds no prompts"),
        ({"adapter": "some/lora"}, "takes no LoRA"),
        ({"settings": Settings(precision="fp8")}, "no precision"),
    ],
)
def test_wrong_settings_are_explained(tmp_path: Path, given: dict[str, Any], message: str) -> None:
    with pytest.raises(CloudsError) as caught:
        generate(tmp_path / "out", **{"count": 2, **given})
    assert message in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_had(tmp_path: Path, prompts: Path) -> None:
    with pytest.raises(CloudsError, match="cannot be loaded"):
        generate(tmp_path / "out", prompts=prompts, model=str(tmp_path))


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(CloudsError, match="exists already"):
        make(Scripted({}), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_the_verb(tmp_path: Path) -> None:
    words = ["generate", "--out", str(tmp_path / "out"), "--count", "2", "--height", "32", "--width", "64"]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert "2 of 2" in result.output
    assert making.SHEET in [path.name for path in (tmp_path / "out").iterdir()]
