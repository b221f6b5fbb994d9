"""`evaluate` block by block: the counts of the evaluation in one go."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from clouds_deploy.api import evaluate as verb
from clouds_deploy.artifacts import read_manifest
from clouds_deploy.cli.app import app
from clouds_deploy.data.dataset import LayoutSource, StreetsSource
from clouds_deploy.errors import CloudsError
from clouds_deploy.runtime.runners import load_runner
from clouds_deploy.runtime.spread import run_here
from clouds_deploy.training import evaluate, evaluate_units
from clouds_deploy.training.candidate import open_candidate
from clouds_deploy.training.evaluate_units import EvaluateWork
from tests.data import trees


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (evaluate, evaluate_units):
        monkeypatch.setattr(module, "BLOCK", 3)


def whole(model: Path, sources: dict[str, Any]) -> dict[str, Any]:
    candidate = open_candidate(model, "onnxruntime", None)
    return {
        name: evaluate.evaluate(candidate.predict, source, candidate.metric)
        for name, source in sources.items()
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
        work = EvaluateWork(model, "onnxruntime", None, sources)
        out = tmp_path / model.name
        assert_same(evaluate_units.evaluate_units(work, out), whole(model, sources))
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
    work = EvaluateWork(small_bundle, "onnxruntime", None, sources)
    out = tmp_path / "out"
    with pytest.raises(Killed):
        evaluate_units.evaluate_units(work, out, runner=killing)
    assert not (out / "manifest.json").exists()

    def counting(work: Any, units: Any, results: Any) -> Iterator[Any]:
        assert [unit.name for unit in units] == ["1-000000"]
        return run_here(work, units, results)

    assert_same(evaluate_units.evaluate_units(work, out, runner=counting), whole(small_bundle, sources))
    image = sources["a"].files(0)[0]
    image.write_bytes(image.read_bytes() + b" ")
    with pytest.raises(CloudsError, match="images 0 to 2 changed"):
        evaluate_units.evaluate_units(work, out)


def test_the_verb(small_bundle: Path, tmp_path: Path) -> None:
    wanted = verb(small_bundle, domain="photo", layout="streets", images=4)
    words = ["evaluate", str(small_bundle), "--domain", "photo", "--layout", "streets", "--images", "4"]
    for _ in range(2):
        done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "out"), "--json"])
        assert json.loads(done.stdout.strip().splitlines()[-1]) == json.loads(json.dumps(wanted))
    with pytest.raises(CloudsError, match="needs a folder"):
        verb(small_bundle, runner="ray")
    trees.folder(tmp_path / "data")
    trees.folder(tmp_path / "more")
    given: Any = {"data": [f"folder@all:{tmp_path / name}" for name in ("data", "more")]}
    assert verb(small_bundle, **given, out=tmp_path / "several") == verb(small_bundle, **given)


class Deadly(EvaluateWork):
    """Takes its process down with it when it first comes to its second unit."""

    marker = Path()

    def work(self, unit: Any, folder: Path) -> Any:
        if unit.name == "0-000001" and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(unit, folder)


@pytest.mark.slow
def test_two_workers_count_the_same_though_one_dies(
    two_machines: Any, small_run: Path, small_bundle: Path, tmp_path: Path
) -> None:
    sources = {"photo": streets(70), "game": streets(35, "game")}
    for model in (small_run, small_bundle):
        work = Deadly(model, "onnxruntime", None, sources)
        work.marker = tmp_path / f"{model.name}-died"
        found = evaluate_units.evaluate_units(work, tmp_path / model.name, runner=load_runner("ray"))
        assert work.marker.exists()
        assert_same(found, whole(model, sources))
    asked = {"domain": "photo", "layout": "streets", "images": 40}
    spread = verb(small_bundle, out=tmp_path / "verb", runner="ray", **asked)  # type: ignore[arg-type]
    assert spread == verb(small_bundle, **asked)  # type: ignore[arg-type]
