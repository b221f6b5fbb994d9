"""Suites: what is usually asked of a bench, by one name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clouds_deploy.errors import CloudsError, nearest

BACKENDS = ("torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Suite:
    """Settings of a bench, each of which the caller may overrule.

    Attributes:
        models: Which bundles it takes: `segmenter`, `sam`; others given are refused.
        backends: See `suites.bench`.
        seconds: See there.
        rounds: See there.
        scaling: See there.
        prompts: See there.
        stages: Whether device, transfers and files are told apart.
        memory: Whether each backend's peak memory is found.
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
        ("segmenter",), (*BACKENDS, "openvino-bf16"), scaling=(1, 2, 4, 8), growth=("pixels", "training")
    ),
    "sam": Suite(("sam",), (*BACKENDS, "openvino-bf16"), scaling=(1, 4, 16, 64), prompts=(1, 64, 256)),
    "refine": Suite(("sam",), growth=("refine images", "refine threads"), stages=False),
    "zoo": Suite(backends=(*BACKENDS, "openvino-bf16"), seconds=2.0, rounds=5, memory=False),
}
"""`zoo` is for many bundles: a short look at each."""


def choose(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Give a suite's settings, with those that the caller chose.

    Args:
        name: A name in `SUITES`.
        given: Settings by name; None was not chosen.

    Raises:
        CloudsError: There is no such suite.
    """
    if name not in SUITES:
        raise CloudsError(f"there is no suite `{name}`", nearest(name, SUITES))
    return vars(SUITES[name]) | {key: value for key, value in given.items() if value is not None}
