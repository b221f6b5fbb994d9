"""Options of `bench`, and the suites: sets of settings under one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from clouds_deploy.config.section import Positive, Section
from clouds_deploy.errors import CloudsError, nearest

BACKENDS = ("torch", "onnxruntime", "openvino")
BACKENDS_AND_BF16 = (*BACKENDS, "openvino-bf16")


@dataclass(frozen=True)
class Suite:
    """Settings of a bench.

    Attributes:
        models: Kinds of bundle that it takes: `segmenter`, `sam`; others are refused.
        backends: Backends to time; `torch` is eager PyTorch, the reference of speed-ups.
        seconds: About how long each backend is timed on each graph.
        rounds: Interleaved rounds.
        scaling: Batches (of a SAM's decoder: numbers of prompts) to time too, for how cost grows.
        prompts: Numbers of prompts per call of a SAM's decoder, each timed.
        stages: Whether device, transfers and files are timed apart.
        memory: Whether the peak memory of each backend is measured, in a process of its own; segmenters only.
        growth: What else grows: `pixels` and `training` of a segmenter in PyTorch; `refine images` and
            `refine threads` of a SAM.
    """

    models: tuple[str, ...] = ("segmenter", "sam")
    backends: tuple[str, ...] = BACKENDS
    seconds: float = 5.0
    rounds: int = 10
    scaling: tuple[int, ...] = ()
    prompts: tuple[int, ...] = (1, 64)
    stages: bool = True
    memory: bool = True
    growth: tuple[str, ...] = ()


SUITES: Mapping[str, Suite] = {
    "default": Suite(),
    "smoke": Suite(seconds=0.5, rounds=3, prompts=(1,), memory=False),
    "segmenter": Suite(
        ("segmenter",), BACKENDS_AND_BF16, scaling=(1, 2, 4, 8), growth=("pixels", "training")
    ),
    "sam": Suite(("sam",), BACKENDS_AND_BF16, scaling=(1, 4, 16, 64), prompts=(1, 64, 256)),
    "refine": Suite(("sam",), growth=("refine images", "refine threads"), stages=False),
    "zoo": Suite(backends=BACKENDS_AND_BF16, seconds=2.0, rounds=5, memory=False),
}
"""`zoo` is for many bundles: a short look at each."""


class BenchOptions(Section):
    """Options of `bench`; where one is None the suite decides.

    Attributes:
        suite: Name of a suite: `default`, `smoke`, `segmenter`, `sam`, `refine` or `zoo`.
        backends: Backends to time; `torch` is eager PyTorch, the reference of speed-ups. None takes those of
            the suite that are installed.
        device: Where all backends compute: `auto` (a GPU if every one of them can use it, else the CPU),
            `cpu`, `cuda` or `cuda:N`.
        mixed_devices: Whether each backend may compute where it can; there is no speed-up between devices.
        batch: Images per call.
        seconds: About how long each backend is timed on each bundle.
        rounds: Interleaved rounds.
        memory: Whether the peak memory of each backend is measured, in a process of its own; segmenters only.
        against: An earlier results.json to compare with.
        scaling: Batches (of a SAM's decoder: numbers of prompts) to time too, for how cost grows.
        prompts: Numbers of prompts per call of a SAM's decoder, each timed.
        stages: Whether device, transfers and files are timed apart.
        weights: A SAM's weight file for PyTorch, where its bundle was made from one.
    """

    suite: str = "default"
    backends: tuple[str, ...] | None = None
    device: str = "auto"
    mixed_devices: bool = False
    batch: Positive = 1
    seconds: Annotated[float, Field(gt=0)] | None = None
    rounds: Positive | None = None
    memory: bool | None = None
    against: Path | None = None
    scaling: tuple[Positive, ...] | None = None
    prompts: tuple[Positive, ...] | None = None
    stages: bool | None = None
    weights: Path | None = None

    def chosen(self) -> Suite:
        """The suite's settings with those options that were given.

        Raises:
            CloudsError: There is no such suite.
        """
        if self.suite not in SUITES:
            raise CloudsError(f"there is no suite `{self.suite}`", nearest(self.suite, SUITES))
        given = {field.name: getattr(self, field.name, None) for field in fields(Suite)}
        changes = {name: value for name, value in given.items() if value is not None}
        return replace(SUITES[self.suite], **changes)
