"""`--runner ray`: the files of the local runner, whatever dies. Skipped where Ray is not installed."""

from __future__ import annotations

import os
import signal
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from clouds_deploy.artifacts import sha256
from clouds_deploy.config.predict import PredictOptions
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import PredictWork, run_predict
from clouds_deploy.jobs.ray import _share, load_runner
from clouds_deploy.jobs.run import run_here
from clouds_deploy.streets import render
from tests.jobs.test_spread import Sums, work


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shards")
    for number in range(6):
        with tarfile.open(root / f"{number}.tar", "w") as tar:
            for i in range(2):
                path = root / "street.png"
                Image.fromarray(render("photo", number, i, 32, 64).image).save(path)
                tar.add(path, f"{number}_{i}.png")
    (root / "street.png").unlink()
    return root


class Deadly(PredictWork):
    """Takes its process down with it when it meets unit 3.

    Args:
        marker: A file; where it is there already, nothing happens.
        seconds: How long each image takes.
    """

    def __init__(self, marker: Path, seconds: float = 0.0) -> None:
        super().__init__(Path("none"), PredictOptions(confidences=True))
        self.marker, self.seconds = marker, seconds

    def stage(self, unit: Any, folder: Path) -> Any:
        if unit.name == "3" and not self.marker.exists():
            if self.marker.name == "once":
                self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return super().stage(unit, folder)

    @property
    def predictor(self) -> Any:
        return Sums()


def here(shards: Path, out: Path) -> Path:
    run_predict(work(), [shards], out)
    return out


def assert_same(out: Path, wanted: Path) -> None:
    names = sorted(p.relative_to(wanted).as_posix() for p in wanted.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    for name in names:
        if name != "manifest.json":
            assert sha256(out / name) == sha256(wanted / name), name


def test_names() -> None:
    assert load_runner("local") is run_here
    with pytest.raises(CloudsError, match="no runner `rey`") as caught:
        load_runner("rey")
    assert caught.value.hint == "did you mean `ray`?"


def test_ray_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(CloudsError) as caught:
        load_runner("ray")
    assert "clouds-deploy[ray]" in caught.value.hint


def test_what_a_worker_gets() -> None:
    def node(**resources: float) -> dict[str, Any]:
        return {"Alive": True, "Resources": resources}

    nodes = [node(CPU=16.0, GPU=2.0), node(CPU=4.0), node(memory=1.0), {"Alive": False, "Resources": {}}]
    assert _share(nodes, True) == (2, {"num_gpus": 1})
    assert _share(nodes, False) == (5, {"num_cpus": 4})
    assert _share(nodes[1:], True) == (1, {"num_cpus": 4})


@pytest.mark.slow
def test_a_worker_dies(shards: Path, tmp_path: Path, ray: Any) -> None:
    wanted = here(shards, tmp_path / "here")
    result = run_predict(Deadly(tmp_path / "once"), [shards], tmp_path / "out", runner=load_runner("ray"))
    assert (tmp_path / "once").exists()
    assert (result["images"], result["failed"]) == (12, [])
    assert_same(tmp_path / "out", wanted)


@pytest.mark.slow
def test_a_unit_that_kills_every_worker_is_named(shards: Path, tmp_path: Path, ray: Any) -> None:
    with pytest.raises(CloudsError, match=r"4 workers died on .*3\.tar"):
        run_predict(Deadly(tmp_path / "ever"), [shards], tmp_path / "out", runner=load_runner("ray"))
    (tmp_path / "ever").touch()
    run_predict(Deadly(tmp_path / "ever"), [shards], tmp_path / "out")
    assert_same(tmp_path / "out", here(shards, tmp_path / "here"))


@pytest.mark.slow
def test_a_machine_of_two_is_lost(shards: Path, tmp_path: Path, two_machines: Any) -> None:
    """The second goes while it works, and doesn't come back."""
    (tmp_path / "slow").touch()
    wanted = here(shards, tmp_path / "here")
    run = load_runner("ray")

    def losing(*given: Any) -> Iterator[Any]:
        for number, outcome in enumerate(run(*given), start=1):
            yield outcome
            if number == 2:
                two_machines.remove_node(next(iter(two_machines.worker_nodes)), allow_graceful=False)

    result = run_predict(Deadly(tmp_path / "slow", 0.3), [shards], tmp_path / "out", runner=losing)
    assert result["images"] == 12
    assert_same(tmp_path / "out", wanted)


@pytest.mark.slow
def test_what_cannot_be_written_is_told(shards: Path, tmp_path: Path, ray: Any) -> None:
    out = tmp_path / "out"
    run_predict(Deadly(tmp_path / "never"), [shards / "0.tar"], out, runner=load_runner("ray"))
    (out / "records" / "1.json").mkdir()
    with pytest.raises(CloudsError, match="cannot write"):
        run_predict(
            Deadly(tmp_path / "never"), [shards / "0.tar", shards / "1.tar"], out, runner=load_runner("ray")
        )
    assert (out / "0.tar").stat().st_size > 0
