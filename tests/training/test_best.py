"""The best evaluation's weights, and checkpoints that are evaluated, of finished and unfinished runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import clouds_deploy
from clouds_deploy.artifacts import read_manifest
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.checkpoints import LAST, best_checkpoint, open_checkpoint, save_best
from clouds_deploy.models.clouds.store import TRAINED, read_tensors
from clouds_deploy.training.segmenter import loop
from clouds_deploy.training.segmenter.loop import train
from tests.training.small import small_recipe

CHANGES = ("train.steps=6", "train.eval_every=2", "train.checkpoint_every=2", "train.keep_best=true")


class Stopped(Exception):
    pass


def worse_after(patch: pytest.MonkeyPatch, step: int) -> None:
    """Makes every evaluation after a step count as worse than those before."""
    real = loop._Run._keep_best

    def keep(self: Any, summary: dict[str, Any], done: int) -> None:
        summary["miou"] = 50.0 + done if done <= step else 10.0
        real(self, summary, done)

    patch.setattr(loop._Run, "_keep_best", keep)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was stopped after its checkpoint of step 4; its best evaluation was that of step 2."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        worse_after(patch, 2)
        real = loop._Run._step

        def step(self: Any, number: int, batch: Any) -> None:
            if number == 4:
                raise Stopped
            real(self, number, batch)

        patch.setattr(loop._Run, "_step", step)
        with pytest.raises(Stopped):
            train(small_recipe(*CHANGES), out)
    return out


def test_checkpoints_of_an_unfinished_run_are_evaluated(stopped: Path) -> None:
    best = best_checkpoint(stopped)
    assert best is not None
    assert (best.step, best.state["outcome"]["miou"]) == (2, 52.0)
    opened = {which: open_checkpoint(stopped, which) for which in ("best", "last", "4", "2")}
    assert [one.step for one in opened.values()] == [2, 4, 4, 2]
    name = "mask_decoder.query_features"
    weights = {which: one.segmenter.state_dict()[name] for which, one in opened.items()}
    assert torch.equal(weights["best"], weights["2"])
    assert torch.equal(weights["last"], weights["4"])
    assert not torch.equal(weights["best"], weights["last"])
    assert len({one.sha256 for one in opened.values()}) == 3  # best and 2 differ in what they hold
    found = clouds_deploy.evaluate(stopped, checkpoint="best", images=2)
    assert found["images"] == 2
    with pytest.raises(CloudsError, match="no checkpoint `3`") as caught:
        clouds_deploy.evaluate(stopped, checkpoint="3")
    assert caught.value.hint == "it has: last, 4, 2, best"
    with pytest.raises(CloudsError):  # unfinished, and no checkpoint is named
        clouds_deploy.evaluate(stopped)


def test_a_finished_run_has_the_best_weights_and_the_last_beside(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = read_tensors(stopped / "checkpoints" / "best_00000002" / TRAINED)
    with monkeypatch.context() as patch:
        worse_after(patch, 2)
        result = train(small_recipe(*CHANGES), stopped, resume=True)
    assert result["miou"] == 52.0
    assert json.loads((stopped / "evaluation.json").read_text())["miou"] == 52.0
    assert read_manifest(stopped, "run")["best"] == {"step": 2, "miou": 52.0}
    assert not (stopped / "checkpoints").exists()
    made, last = read_tensors(stopped / TRAINED), read_tensors(stopped / LAST)
    assert all(torch.equal(made[name], best[name]) for name in best)
    assert any(not torch.equal(made[name], last[name]) for name in best)
    name = "mask_decoder.query_features"
    for which, tensors, step in (("best", made, 2), ("2", made, 2), ("last", last, 6), ("6", last, 6)):
        opened = open_checkpoint(stopped, which)
        assert opened.step == step
        assert torch.equal(opened.segmenter.state_dict()[name], tensors[name])
    with pytest.raises(CloudsError, match="no checkpoint `4`") as caught:
        open_checkpoint(stopped, "4")
    assert caught.value.hint == "it is finished and has: last, 6, best, 2"


def test_without_keep_best_a_run_ends_with_its_last_step(tmp_path: Path) -> None:
    train(small_recipe("train.steps=2", "train.eval_every=1"), tmp_path / "run")
    assert not (tmp_path / "run" / LAST).exists()
    assert "best" not in read_manifest(tmp_path / "run", "run")
    assert open_checkpoint(tmp_path / "run", "last").step == 2
    with pytest.raises(CloudsError, match="no checkpoint `best`") as caught:
        open_checkpoint(tmp_path / "run", "best")
    assert "train.keep_best keeps the best" in caught.value.hint


def test_a_damaged_best_is_passed_over(tmp_path: Path) -> None:
    save_best(tmp_path, 3, {TRAINED: {"a": torch.zeros(2)}}, {"outcome": {"miou": 1.0}})
    save_best(tmp_path, 5, {TRAINED: {"a": torch.ones(2)}}, {"outcome": {"miou": 2.0}})
    found = best_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 5
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["best_00000005"]
    (found.path / TRAINED).write_bytes(b"x")
    assert best_checkpoint(tmp_path) is None


def test_keep_best_needs_evaluations() -> None:
    with pytest.raises(CloudsError, match="set eval_every above 0"):
        small_recipe("train.keep_best=true", "train.eval_every=0")
