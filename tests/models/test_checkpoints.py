"""Checkpoints: what holds is taken, what is damaged is kept, what cannot be told stops the training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.checkpoints import (
    CHECKPOINTS,
    STATE,
    newest_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / CHECKPOINTS).iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    for step in (1, 2, 3):
        tensors = {"x": torch.full((9,), step)}
        save_checkpoint(tmp_path, step, {"a.safetensors": tensors}, {"note": step}, keep=2)
    return tmp_path


def test_the_newest_are_kept(run: Path) -> None:
    assert names(run) == ["step_00000002", "step_00000003"]
    found = newest_checkpoint(run)
    assert found is not None
    assert (found.step, found.state["note"], found.tensors("a.safetensors")["x"].tolist()) == (3, 3, [3] * 9)
    assert found.tensors("b.safetensors") == {}
    assert newest_checkpoint(run / "nothing") is None


def test_only_checkpoints_go_with_a_finished_run(run: Path) -> None:
    (run / CHECKPOINTS / "step_00000001.damaged-2").mkdir()
    (run / CHECKPOINTS / ".step_00000004.tmp-999999999-1-00000000-00000000").mkdir()  # of another machine
    (run / CHECKPOINTS / "notes.txt").write_text("mine")
    remove_checkpoints(run)
    assert [name for name in names(run) if not name.startswith(".")] == ["notes.txt"]
    (run / CHECKPOINTS / "notes.txt").unlink()
    for path in (run / CHECKPOINTS).iterdir():
        path.rmdir()
    remove_checkpoints(run)
    assert not (run / CHECKPOINTS).exists()
    remove_checkpoints(run)


def test_a_damaged_one_is_kept_under_another_name(run: Path) -> None:
    for kept in (["step_00000003.damaged"], ["step_00000003.damaged", "step_00000003.damaged-2"]):
        file = run / CHECKPOINTS / "step_00000003" / "a.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        found = newest_checkpoint(run)
        assert found is not None
        assert found.step == 2
        assert names(run) == ["step_00000002", *kept]
        save_checkpoint(run, 3, {"a.safetensors": {"x": torch.ones(9)}}, {}, keep=2)


@pytest.mark.parametrize("change", [{"note": 4}, {"step": 30}, {"files": {}}])
def test_a_changed_state_is_damage(run: Path, change: dict[str, object]) -> None:
    path = run / CHECKPOINTS / "step_00000003" / STATE
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    found = newest_checkpoint(run)
    assert found is not None
    assert found.step == 2


def test_another_version_and_an_unreadable_file_are_no_damage(run: Path) -> None:
    path = run / CHECKPOINTS / "step_00000003"
    (path / STATE).write_text('{"step": 3}')
    with pytest.raises(CloudsError, match="an earlier version"):
        newest_checkpoint(run)
    (path / STATE).unlink()
    (path / STATE).mkdir()
    with pytest.raises(CloudsError, match="cannot be read"):
        newest_checkpoint(run)
    assert names(run) == ["step_00000002", "step_00000003"]
