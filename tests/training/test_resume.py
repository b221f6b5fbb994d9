"""A killed training, resumed, ends with the bytes of an undisturbed one."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.checkpoints import CHECKPOINTS
from clouds_deploy.models.clouds.store import FROZEN, TRAINED, load_run
from clouds_deploy.training.journal import read_metrics
from clouds_deploy.training.run import OPTIMIZER, RunFolder, check_resumable
from clouds_deploy.training.segmenter import loop
from clouds_deploy.training.segmenter.loop import train
from tests.deadly import kill, wait_until
from tests.training.small import small_recipe, start_training

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    train(small_recipe(), out)
    return out


def kill_when(folder: Path, out: Path, due: Callable[[], bool]) -> None:
    process = start_training(small_recipe(), folder, out)
    wait_until(lambda: process.poll() is not None or due(), 60)
    assert process.poll() is None, process.communicate(timeout=30)
    kill(process)


def lines(run: Path) -> list[dict[str, Any]]:
    return [
        {name: value for name, value in line.items() if name != "images_per_second"}
        for line in read_metrics(run)
    ]


def assert_same(run: Path, undisturbed: Path) -> None:
    for name in (TRAINED, FROZEN, "evaluation.json", "recipe.yaml"):
        assert sha256(run / name) == sha256(undisturbed / name), name
    assert lines(run) == lines(undisturbed)
    assert read_manifest(run, "run")["kind"] == "run"
    assert not [path for path in run.rglob("*") if ".tmp-" in path.name]
    assert not (run / CHECKPOINTS).exists()


def test_a_finished_run_opens_without_its_backbone_package(undisturbed: Path) -> None:
    recipe, segmenter = load_run(undisturbed)
    assert recipe == small_recipe()
    assert segmenter.backbone.weights == "random"
    assert not segmenter.training
    steps = [(line["step"], "miou" in line) for line in read_metrics(undisturbed)]
    expected = [(2, False), (4, False), (5, True), (6, False), (8, False), (10, False), (10, True)]
    assert steps == [*expected, (12, False), (12, True)]


def test_killed_at_a_random_step(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    target = random.Random(4).randint(3, 9)
    last = [0]

    def due() -> bool:
        done = read_metrics(out)
        last[0] = done[-1]["step"] if done else 0
        return last[0] >= target

    kill_when(tmp_path, out, due)
    train(small_recipe("train.workers=1"), out, resume=True)  # the number of workers may change
    read = (out / "recipe.yaml").read_text()
    assert "workers: 0" in read
    assert_same(out, undisturbed)


def test_killed_while_a_checkpoint_is_written(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    folder = out / CHECKPOINTS

    def due() -> bool:
        if not (folder / "step_00000003").exists():
            return False
        return any(path.name.startswith(".step_") for path in folder.iterdir())

    kill_when(tmp_path, out, due)
    train(small_recipe(), out, resume=True)
    assert_same(out, undisturbed)


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> Path:
    """A run that stopped after some step, with all its checkpoints."""
    from clouds_deploy.training.segmenter import loop

    real = loop._Run._step

    def stop(self: Any, at: int, batch: Any) -> None:
        if at == step:
            raise KeyboardInterrupt
        real(self, at, batch)

    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_step", stop)
        with pytest.raises(KeyboardInterrupt):
            train(small_recipe(), tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        return interrupted(tmp_path_factory.mktemp("stopped"), patch, 7)


def test_a_damaged_newest_checkpoint_is_passed_over(
    stopped: Path, undisturbed: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    damaged = out / CHECKPOINTS / "step_00000006" / OPTIMIZER
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    train(small_recipe(), out, resume=True)
    shown = capfd.readouterr().err
    assert "step_00000006 is damaged" in shown
    assert "going on from step 3" in shown
    assert_same(out, undisturbed)


def test_an_edited_recipe_damages_no_checkpoint(stopped: Path, tmp_path: Path) -> None:
    """Another value is named and refused, and the checkpoints stay; a comment changes nothing."""
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    text = (out / "recipe.yaml").read_text()
    kept = {path.name for path in (out / CHECKPOINTS).iterdir()}
    (out / "recipe.yaml").write_text(text.replace("lr: 0.001", "lr: 0.5"))
    with pytest.raises(CloudsError, match=r"changed by you.*with train\.lr=0\.001, not 0\.5"):
        train(small_recipe("train.lr=0.5"), out, resume=True)
    assert {path.name for path in (out / CHECKPOINTS).iterdir()} == kept
    (out / "recipe.yaml").write_text(f"{text}# mine\n")
    train(small_recipe(), out, resume=True)
    assert (out / "recipe.yaml").read_text().endswith("# mine\n")


def test_damaged_frozen_weights_are_named(stopped: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    (out / FROZEN).write_bytes((out / FROZEN).read_bytes()[:-1] + b"x")
    with pytest.raises(CloudsError, match=r"frozen\.safetensors is not what was written"):
        train(small_recipe(), out, resume=True)


def test_killed_between_the_last_step_and_the_manifest(
    stopped: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clouds_deploy.training.segmenter import loop

    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    with monkeypatch.context() as patch:
        patch.setattr(loop.RunFolder, "finish", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(small_recipe(), out, resume=True)
    train(small_recipe(), out, resume=True)
    assert_same(out, undisturbed)


def test_resume_is_refused_with_another_recipe(stopped: Path) -> None:
    with pytest.raises(CloudsError, match=r"started with train\.lr=0\.001, not 0\.01"):
        train(small_recipe("train.lr=0.01"), stopped, resume=True)


def test_an_existing_run_is_not_overwritten(stopped: Path, undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="exists already") as unfinished:
        train(small_recipe(), stopped)
    assert "--resume" in unfinished.value.hint
    with pytest.raises(CloudsError, match="exists already") as finished:
        train(small_recipe(), undisturbed)
    assert "--resume" not in finished.value.hint
    with pytest.raises(CloudsError, match="no run to resume"):
        train(small_recipe(), tmp_path / "nothing", resume=True)


def test_a_finished_run_says_so(undisturbed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = sha256(undisturbed / "manifest.json")
    outcome = train(small_recipe(), undisturbed, resume=True)
    assert "finished already" in capfd.readouterr().err
    assert outcome["steps"] == 12
    assert outcome["images_per_second"] is None
    assert sha256(undisturbed / "manifest.json") == before
    with pytest.raises(
        CloudsError, match=r"is finished \(12 steps\); it was made with train.lr=0.001"
    ) as caught:
        train(small_recipe("train.lr=0.01"), undisturbed, resume=True)
    assert f"--init {undisturbed}" in caught.value.hint
    assert sha256(undisturbed / "manifest.json") == before


def test_the_place_is_checked_before_the_model_is_built(
    stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "initial_segmenter", lambda *_: pytest.fail("the work began"))
    (tmp_path / "file").write_text("mine")
    for out, told in ((stopped, "exists already"), (tmp_path / "file" / "p", "is a file, not a folder")):
        with pytest.raises(CloudsError, match=told):
            train(small_recipe(), out)


def test_a_run_is_trained_by_one_process(stopped: Path) -> None:
    run = RunFolder(stopped, small_recipe(), "run", keep=2)
    before = sorted(stopped.rglob("*"))
    with run.claimed(), pytest.raises(CloudsError, match=rf"being made by process {os.getpid()} on"):
        train(small_recipe(), stopped, resume=True)
    assert sorted(stopped.rglob("*")) == before


def test_the_data_may_have_moved(stopped: Path) -> None:
    moved = small_recipe()
    moved = moved.model_copy(update={"data": moved.data.model_copy(update={"root": Path("/elsewhere")})})
    check_resumable(stopped, moved)
    with pytest.raises(CloudsError, match=r"started with data\.layout"):
        check_resumable(stopped, small_recipe("data.layout=folder", "data.root=/elsewhere"))


def test_a_full_disk_leaves_earlier_checkpoints(
    stopped: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from clouds_deploy import artifacts

    out = Path(shutil.copytree(stopped, tmp_path / "run"))
    real = artifacts._flush

    def full(path: Path) -> None:
        if "step_00000009" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(artifacts, "_flush", full)
        with pytest.raises(CloudsError, match="no space left") as told:
            train(small_recipe(), out, resume=True)
    assert "free some space" in told.value.hint
    names = {path.name for path in (out / CHECKPOINTS).iterdir()}
    assert names == {"step_00000003", "step_00000006"}
    train(small_recipe(), out, resume=True)
    assert_same(out, undisturbed)


def test_a_diverged_loss_stops_the_run(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(CloudsError, match=r"NaN or infinite (at|by) step \d") as told:
        train(small_recipe("train.lr=1.0e+30", "train.warmup_steps=0"), out)
    assert "lower train.lr" in told.value.hint
    assert not (out / "manifest.json").exists()
    assert not [path for path in tmp_path.rglob("*") if ".tmp-" in path.name]


def test_init_starts_from_another_run(undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    recipe = small_recipe("train.steps=1", "train.lr=1.0e-12", "train.eval_every=0", "seed=9")
    train(recipe, out, init=undisturbed)
    inputs = read_manifest(out, "run")["inputs"]
    assert inputs == {"init": sha256(undisturbed / TRAINED)}
    before, after = (dict(load_run(run)[1].named_parameters()) for run in (undisturbed, out))
    assert all((before[name] - after[name]).abs().max() < 1e-9 for name in before)

    with pytest.raises(CloudsError, match="query_features"):
        train(small_recipe("model.mask_decoder.queries=22"), tmp_path / "other", init=undisturbed)
    assert not (tmp_path / "other").exists()


def test_strange_neighbours_of_a_run_are_left_alone(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")  # opening it to read would wait for ever
    train(small_recipe("train.steps=1", "train.eval_every=0"), tmp_path / "run")
    assert (tmp_path / "run" / "manifest.json").is_file()
