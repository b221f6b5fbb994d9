"""Typing commands, and what a short training and its export leave."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clouds_deploy.cli import main

SMALL = (
    "train.steps=2",
    "train.batch_size=2",
    "train.workers=0",
    "train.loss.points=64",
    "train.log_every=1",
    "model.width=32",
    "model.pixel_decoder.layers=1",
    "model.mask_decoder.layers=1",
    "model.mask_decoder.queries=8",
    "augment.crop=[64,128]",
    "data.height=64",
    "data.width=128",
    "data.train_images=4",
    "data.val_images=2",
    "export.height=64",
    "export.width=128",
)


def run(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Type a command, in this process: a fresh one spends seconds on importing torch."""
    if cwd is not None:
        before = Path.cwd()
        os.chdir(cwd)
        try:
            return run(*arguments)
        finally:
            os.chdir(before)
    words = ["clouds-deploy", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    before, sys.argv = sys.argv, words
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.argv = before
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def last_json(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, without --out: below a folder that was empty before."""
    folder = tmp_path_factory.mktemp("cli")
    done = run("train", "tiny", *SMALL, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "runs/tiny: 2 steps, " in done.stdout
    assert "mIoU" in done.stdout
    return folder / "runs" / "tiny"


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Path:
    """The newest run's bundle; nothing is named."""
    done = run("export", "--fp16", cwd=trained.parents[1])
    assert done.returncode == 0, done.stderr
    assert "newest run, runs/tiny" in done.stderr
    assert "openvino labels equal" in done.stdout
    assert "FAILED" not in done.stdout
    assert "bundles/tiny-fp16: " in done.stdout
    return trained.parents[1] / "bundles" / "tiny-fp16"
