"""What the tests of tuning share."""

from __future__ import annotations

import sys
from pathlib import Path

from clouds_deploy.generation.shots import Shots
from clouds_deploy.generation.tuning import Tuning

QUICK = Tuning(rank=2, steps=6, lr=1e-2, batch=2, height=32, width=48)
PROMPT, CLASS_PROMPT = "a photo of a sks street", "a photo of a street"


def prepared(folder: Path, size: tuple[int, int] = (32, 48)) -> Shots:
    made = Shots(folder)
    made.cut_to(size)
    return made


def child(model: Path, shots: Path, out: Path, *more: str) -> list[str]:
    words = ["tune-diffusion", str(model), str(shots), "--out", str(out), "--prompt", PROMPT, "--rank", "2"]
    words += ["--steps", "40", "--lr", "0.01", "--batch", "2", "--height", "32", "--width", "48"]
    words += ["--class-prompt", CLASS_PROMPT, "--class-count", "3", "--checkpoint-every", "5"]
    return [sys.executable, "-m", "clouds_deploy", *words, *more]
