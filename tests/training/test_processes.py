"""One training in several processes, and in several parts: the same losses and the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.checkpoints import CHECKPOINTS
from clouds_deploy.models.clouds.store import TRAINED, read_tensors
from clouds_deploy.training.segmenter.loop import train
from clouds_deploy.training.segmenter.pseudo_labels import FOLDER
from tests.deadly import wait_until
from tests.training.small import small_recipe

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 1e-4
BATCH = ("train.batch_size=4", "train.steps=8", "train.log_every=1", "train.eval_every=4", "train.lr=2.5e-5")
JOINT = (
    "joint.generated_images=6", "joint.generated_share=0.5", "joint.ema_every=2", "joint.ema_decay=0.9",
    "joint.refine=null",
)  # fmt: skip
CODE = """
import os, sys, pathlib, time, torch
torch.set_num_threads(1)
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.training.segmenter.loop import train
flush = os.fsync
os.fsync = lambda handle: (time.sleep(0.02), flush(handle))
train(load_recipe(sys.argv[1]), pathlib.Path(sys.argv[2]), resume=sys.argv[3] == "resume")
"""


def launch(recipe: Recipe, folder: Path, out: Path, *, resume: bool = False) -> subprocess.Popen[str]:
    """Start two processes with torchrun, as people do, in a group of their own."""
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    (folder / "train.py").write_text(CODE, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(folder / "train.py")]
    command += [str(folder / "recipe.yaml"), str(out), "resume" if resume else "start"]
    environment = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        start_new_session=True,
    )  # fmt: skip


def in_two(recipe: Recipe, folder: Path, out: Path, *, resume: bool = False) -> None:
    with launch(recipe, folder, out, resume=resume) as both:
        _, errors = both.communicate(timeout=300)
        assert both.returncode == 0, errors


def lines(out: Path) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    for text in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        found.setdefault(line["step"], {}).update(line)
    return found


def assert_same(one: Path, other: Path) -> None:
    """Compare what two runs wrote: every loss of every step, the evaluations, the weights."""
    ours, theirs = lines(one), lines(other)
    assert ours.keys() == theirs.keys()
    for step, line in ours.items():
        for name, value in line.items():
            if name != "images_per_second":
                within = 10 * TOLERANCE if name == "gradient_norm" else TOLERANCE
                assert theirs[step][name] == pytest.approx(value, rel=within, abs=TOLERANCE), (step, name)
    mine, other_weights = read_tensors(one / TRAINED), read_tensors(other / TRAINED)
    assert mine.keys() == other_weights.keys()
    for name, value in mine.items():
        assert torch.allclose(other_weights[name], value, rtol=1e-3, atol=1e-3), name


@pytest.mark.parametrize(
    "more",
    [
        pytest.param((), id="frozen"),
        pytest.param(JOINT, id="online"),
        pytest.param((*JOINT, "joint.pseudo_labels=cached"), id="cached", marks=pytest.mark.slow),
        pytest.param(("model.backbone.trainable=true",), id="trainable", marks=pytest.mark.slow),
    ],
)
def test_two_processes_learn_what_one_learns(more: tuple[str, ...], tmp_path: Path) -> None:
    recipe = small_recipe(*BATCH, *more)
    train(recipe, tmp_path / "one")
    in_two(recipe, tmp_path / "files", tmp_path / "two")
    assert_same(tmp_path / "one", tmp_path / "two")
    assert read_manifest(tmp_path / "two", "run")["processes"] == 2
    if "joint.pseudo_labels=cached" in more:
        for one in (tmp_path / "one" / FOLDER).rglob("*.png"):
            assert (tmp_path / "two" / one.relative_to(tmp_path / "one")).read_bytes() == one.read_bytes()


@pytest.mark.parametrize("more", [(), JOINT], ids=["plain", "joint"])
def test_a_batch_in_parts_teaches_the_same(more: tuple[str, ...], tmp_path: Path) -> None:
    train(small_recipe(*BATCH, *more), tmp_path / "whole")
    train(small_recipe(*BATCH, *more, "train.accumulate=4"), tmp_path / "parts")
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_two_processes_killed_end_with_the_same_bytes(tmp_path: Path) -> None:
    recipe = small_recipe(*BATCH, *JOINT, "train.accumulate=2", "train.checkpoint_every=2")
    in_two(recipe, tmp_path / "files", tmp_path / "whole")
    out = tmp_path / "killed"
    with launch(recipe, tmp_path / "files", out) as both:
        wait_until(lambda: both.poll() is not None or list((out / CHECKPOINTS).glob("step_00000004*")), 300)
        os.killpg(both.pid, signal.SIGKILL)
    assert not (out / TRAINED).is_file(), "the run ended before it was killed"
    in_two(recipe, tmp_path / "files", out, resume=True)
    assert (out / TRAINED).read_bytes() == (tmp_path / "whole" / TRAINED).read_bytes()


def test_what_does_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="batch_size 4 is not a multiple of accumulate 3"):
        small_recipe(*BATCH, "train.accumulate=3")
    with launch(small_recipe(*BATCH, "train.accumulate=4"), tmp_path / "files", tmp_path / "two") as both:
        _, errors = both.communicate(timeout=300)
    assert "4 images do not divide among 2 processes x 4 parts" in errors
    assert not (tmp_path / "two").exists()
