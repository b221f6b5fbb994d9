"""What a session can be asked for, whatever the runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Precision = Literal["f32", "bf16"]
INSTALL = 'pip install "clouds-deploy[cpu]"'


@dataclass(frozen=True)
class Options:
    """How a session is to run.

    Attributes:
        device: `cpu`, or what the runtime calls another device (`cuda`, `GPU`).
        threads: Threads to compute with; None leaves it to the runtime.
        precision: `f32`, or `bf16` where the runtime can (OpenVINO); never chosen silently.
        batch: Images of nearly every call, where that is known beforehand; OpenVINO plans for it.
    """

    device: str = "cpu"
    threads: int | None = None
    precision: Precision = "f32"
    batch: int | None = None
