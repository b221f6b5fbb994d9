"""SIGKILL and SIGTERM at random moments: no traceback, nothing lost or half-written, and the next run works.

The default suite tries four moments; `slow` tries fifty over five verbs.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.artifacts import write_text
from tests.cpp.toy import write_toy
from tests.cpp.toy_sam import write_toy_sam
from tests.killed import Victims
from tests.refinement.fakes import folder
from tests.test_faults import contents, half_written, listed
from tests.training.small import small_recipe

SIGNALS = (signal.SIGKILL, signal.SIGTERM)
Words = Callable[[Path], list[str]]


def finished(out: Path) -> dict[str, bytes]:
    """Results that do not depend on when a run was stopped: images, weights, graphs."""
    kinds = (".png", ".jpg", ".safetensors", ".onnx")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix in kinds and "checkpoints" not in path.parts
    }


def commands(root: Path) -> dict[str, Words]:
    """The verbs that need no real network, on inputs made here; each goes on with what is in its folder."""
    images, labels = folder(root, 12)
    toy, sam = write_toy(root / "toy"), write_toy_sam(root / "sam")
    recipe = root / "small.yaml"
    write_text(recipe, small_recipe("train.checkpoint_every=2").to_yaml())

    def refine(out: Path) -> list[str]:
        words = ["refine", "--images", str(images), "--labels", str(labels), "--sam", str(sam)]
        return [*words, "--batch", "2", "--out", str(out)]

    def train(out: Path) -> list[str]:
        return ["train", str(recipe), "--out", str(out), *(["--resume"] if out.exists() else [])]

    return {
        "predict": lambda out: ["predict", str(toy), str(images), "--out", str(out)],
        "refine": refine,
        "generate": lambda out: [
            "generate", "--count", "12", "--batch", "2", "--height", "64", "--width", "128", "--out", str(out)
        ],
        "train": train,
    }  # fmt: skip


def check(victims: Victims, verb: str, words: Words, root: Path, moments: int, seed: int) -> list[str]:
    """Kill a command at so many moments; what it said of each, for the figures."""
    for name in (".out.old", "out.failed", "out.txt"):
        (root / name).write_text("mine")
    places, log, draw = root / f"made_{verb}", root / f"{verb}.log", random.Random(f"{seed} {verb}")
    places.mkdir()
    code, whole = victims.run(words(places / "whole"), log)
    assert code == 0, log.read_text()
    made, results = listed_without_checkpoints(places / "whole"), finished(places / "whole")
    assert results
    before = contents(root)
    told = []
    for moment, sent in zip(range(moments), itertools.cycle(SIGNALS), strict=False):
        out, after = places / f"{moment}", draw.uniform(0, whole)
        log = root / f"{verb}_{moment}.log"
        code, _ = victims.run(words(out), log, after, sent)
        said = log.read_text()
        where = f"{verb}, {signal.Signals(sent).name} after {after:.2f} of {whole:.2f} s: {code}\n{said}"
        assert "Traceback" not in said, where
        assert code in (0, -sent, *([128 + sent] if sent == signal.SIGTERM else [])), where
        if sent == signal.SIGTERM:
            assert not half_written(places), where
        kept = {path: data for path, data in finished(out).items() if ".tmp-" not in path}
        assert kept.items() <= results.items(), where  # what has its final name is whole
        if not (verb == "export" and out.exists()):
            again, _ = victims.run(words(out), log)
            assert again == 0, f"{where}\nthen: {log.read_text()}"
        log.unlink()
        assert listed_without_checkpoints(out) == made, where
        assert finished(out) == results, where
        assert not half_written(root), where
        now = contents(root)
        assert not [path for path, data in before.items() if now.get(path) != data], where
        told.append(f"{verb} {signal.Signals(sent).name} {after / whole:.0%} {code}")
    return told


def listed_without_checkpoints(out: Path) -> list[str]:
    """Which checkpoints a run keeps depends on where it was stopped; nothing else does."""
    return [name for name in listed(out) if "checkpoints/" not in name]


@pytest.mark.parametrize("verb", ["predict", "generate"])
def test_four_moments(verb: str, tmp_path: Path) -> None:
    with Victims() as victims:
        check(victims, verb, commands(tmp_path)[verb], tmp_path, 2, 0)


@pytest.mark.slow
def test_fifty_moments(small_run: Path, small_exported: Any, tmp_path: Path) -> None:
    import onnx_ir

    onnx_ir.save(small_exported.model, tmp_path / "traced.onnx")
    words = {**commands(tmp_path), "export": lambda out: ["export", str(small_run), "--out", str(out)]}
    with Victims(tmp_path / "traced.onnx") as victims:
        told = [line for verb in words for line in check(victims, verb, words[verb], tmp_path, 10, 1)]
    assert len(told) == 50
    (tmp_path / "told.txt").write_text("\n".join(told))
