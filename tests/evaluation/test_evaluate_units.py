"""`evaluate` block by block: the counts of the evaluation in one go."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.cli.app import app
from clouds_deploy.config.evaluate import EvaluateOptions
from clouds_deploy.data.images import write_png
from clouds_deploy.data.sources import LayoutSource, StreetsSource
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation import evaluate, job
from clouds_deploy.evaluation.job import EvaluateWork, run_evaluate
from clouds_deploy.evaluation.job import evaluate as verb
from clouds_deploy.jobs.ray import load_runner
from clouds_deploy.jobs.run import run_here
from clouds_deploy.jobs.storage import Place
from tests.data import trees
from tests.deadly import Deadly


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluate, job):
        monkeypatch.setattr(module, "BLOCK", 3)


def whole(model: Path, sources: dict[str, Any]) -> dict[str, Any]:
    work = EvaluateWork(model, EvaluateOptions(), sources)
    return {
        name: evaluate.evaluate(work.segmenter.batch, source, work.metric) for name, source in sources.items()
    }


def assert_same(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert list(found) == list(wanted)
    for name, one in wanted.items():
        assert np.array_equal(found[name].matrix.counts, one.matrix.counts)
        assert found[name].to_dict() == one.to_dict()


def streets(count: int, domain: str = "photo") -> StreetsSource:
    return StreetsSource(domain, 1, count, 64, 128)


def test_runs_and_bundles(small_run: Path, small_bundle: Path, tmp_path: Path) -> None:
    sources = {"photo": streets(7), "game": streets(4, "game")}
    for model in (small_run, small_bundle):
        work = EvaluateWork(model, EvaluateOptions(), sources)
        out = tmp_path / model.name
        assert_same(run_evaluate(work, out), whole(model, sources))
        assert len(list((out / "records").iterdir())) == 5
        read_manifest(out, "evaluation")
        assert work.gpu == (model == small_run)


def test_batches_are_cut_alike_in_parts() -> None:
    """A model computes an image a little differently in other company."""
    seen: list[int] = []

    def predict(images: Any) -> Any:
        seen.append(len(images))
        return images[..., 0] % 19

    evaluate.evaluate(predict, streets(8))
    assert seen == [3, 3, 2]


class Killed(Exception):
    pass


def killing(*given: Any) -> Iterator[Any]:
    for outcome in run_here(*given):
        yield outcome
        raise Killed


def test_a_killed_evaluation_goes_on(small_bundle: Path, tmp_path: Path) -> None:
    trees.folder(tmp_path / "data")
    sources = {"a": LayoutSource("folder", tmp_path / "data", "all"), "b": streets(2)}
    work = EvaluateWork(small_bundle, EvaluateOptions(), sources)
    out = tmp_path / "out"
    with pytest.raises(Killed):
        run_evaluate(work, out, runner=killing)
    assert not (out / "manifest.json").exists()

    def counting(work: Any, units: Any, results: Any) -> Iterator[Any]:
        assert [unit.name for unit in units] == ["1-000000"]
        return run_here(work, units, results)

    assert_same(run_evaluate(work, out, runner=counting), whole(small_bundle, sources))
    image = sources["a"].files(0)[0]
    image.write_bytes(image.read_bytes() + b" ")
    with pytest.raises(CloudsError, match="a, images 0 to 2 changed"):
        run_evaluate(work, out)


def test_the_verb(small_bundle: Path, tmp_path: Path) -> None:
    wanted = verb(small_bundle, domain="photo", layout="streets", images=4)
    words = ["evaluate", str(small_bundle), "--domain", "photo", "--layout", "streets", "--images", "4"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--json"])
        assert json.loads(done.stdout.strip().splitlines()[-1]) == json.loads(json.dumps(wanted))
    with pytest.raises(CloudsError, match="need a folder"):
        verb(small_bundle, runner="ray")
    trees.folder(tmp_path / "data")
    trees.folder(tmp_path / "more")
    given: Any = {"data": [f"folder@all:{tmp_path / name}" for name in ("data", "more")]}
    assert verb(small_bundle, **given, out=tmp_path / "several") == verb(small_bundle, **given)


def test_shards(small_bundle: Path, tmp_path: Path) -> None:
    """Images and labels in the same shards, here and away: the figures of the same files in a folder."""
    source = streets(5)
    shards, away = tmp_path / "shards", Place(f"memory://{tmp_path.name}/shards")
    shards.mkdir()
    for number in range(5):
        image, labels = source.load(number)
        assert labels is not None
        write_png(tmp_path / "data" / "images" / f"{number}.png", image)
        write_png(tmp_path / "data" / "labels" / f"{number}.png", labels)
        with tarfile.open(shards / f"part-{number // 2}.tar", "a") as tar:
            tar.add(tmp_path / "data" / "images" / f"{number}.png", f"{number}.png")
            tar.add(tmp_path / "data" / "labels" / f"{number}.png", f"{number}.labels.png")
    for path in shards.iterdir():
        away.put(path, path.name)
    wanted = verb(small_bundle, data=f"folder@all:{tmp_path / 'data'}")
    for number, given in enumerate((shards, away.address)):
        found = verb(small_bundle, data=given, out=tmp_path / f"out{number}")
        assert {**found, "data": wanted["data"], "read": wanted["read"]} == wanted
    several: Any = {"data": [f"folder@all:{tmp_path / 'data'}", str(shards)]}
    both = verb(small_bundle, **several, out=tmp_path / "both")
    assert {name: one["miou"] for name, one in both["domains"].items()} == {
        "folder": wanted["miou"], str(shards): wanted["miou"],
    }  # fmt: skip
    with pytest.raises(CloudsError, match="need a folder"):
        verb(small_bundle, data=shards)
    with pytest.raises(CloudsError, match="not from shards"):
        verb(small_bundle, data=shards, images=2, out=tmp_path / "x")
    Place(f"memory://{tmp_path.name}/images").put(tmp_path / "data" / "images" / "0.png", "0.png")
    with pytest.raises(CloudsError, match="holds no shards"):
        verb(small_bundle, data=f"memory://{tmp_path.name}/images", out=tmp_path / "y")


def test_faulty_shards_are_named(small_bundle: Path, tmp_path: Path) -> None:
    image, labels = streets(1).load(0)
    assert labels is not None
    write_png(tmp_path / "a.png", image)
    write_png(tmp_path / "b.png", labels)
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
        tar.add(tmp_path / "b.png", "a.labels.png")
    (shards / "1.tar").write_bytes((shards / "0.tar").read_bytes()[:700])
    with pytest.raises(CloudsError, match=r"shards/1\.tar is a damaged shard"):
        verb(small_bundle, data=shards, out=tmp_path / "out")
    assert (tmp_path / "out" / "records" / "0.json").is_file()
    with tarfile.open(shards / "1.tar", "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    with pytest.raises(CloudsError, match="a has no labels"):
        verb(small_bundle, data=shards, out=tmp_path / "out")
    with tarfile.open(shards / "1.tar", "a") as tar:
        tar.add(tmp_path / "b.png", "a.labels.png")
    assert verb(small_bundle, data=shards, out=tmp_path / "out")["images"] == 2


class DeadlyEvaluate(Deadly, EvaluateWork):
    victim = "0-000001"


@pytest.mark.slow
def test_two_workers_count_the_same_though_one_dies(
    two_machines: Any, small_run: Path, small_bundle: Path, tmp_path: Path
) -> None:
    sources = {"photo": streets(70), "game": streets(35, "game")}
    for model in (small_run, small_bundle):
        work = DeadlyEvaluate(model, EvaluateOptions(), sources)
        work.marker = tmp_path / f"{model.name}-died"
        found = run_evaluate(work, tmp_path / model.name, runner=load_runner("ray"))
        assert work.marker.exists()
        assert_same(found, whole(model, sources))
    asked = {"domain": "photo", "layout": "streets", "images": 40}
    spread = verb(small_bundle, out=tmp_path / "verb", runner="ray", **asked)  # type: ignore[arg-type]
    assert spread == verb(small_bundle, **asked)  # type: ignore[arg-type]


def test_a_bundle_has_no_checkpoints(small_bundle: Path) -> None:
    with pytest.raises(CloudsError, match="is a bundle, which has no checkpoints"):
        verb(small_bundle, checkpoint="best")
