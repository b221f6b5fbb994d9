"""What a bench is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clouds_deploy.bundles.tensors import Array


@dataclass(frozen=True)
class Plan:
    """How to time.

    Attributes:
        names: Backends.
        batch: Images per call.
        seconds: About how long each backend is timed on each graph.
        rounds: Turns the backends take.
        peak: What this machine's matrix product reaches, see `peak.matmul_peak`.
        scaling: Batches, or prompts, to time too.
        prompts: Prompts a call of a SAM's decoder.
        stages: Whether device, transfers and files are told apart, see `stages.time_stages`.
    """

    names: Sequence[str]
    batch: int
    seconds: float
    rounds: int
    peak: Mapping[str, float]
    scaling: tuple[int, ...] = ()
    prompts: tuple[int, ...] = (1, 64)
    stages: bool = False


def repeated(array: Array, rows: int) -> Array:
    """Give so many rows, an array's own again and again."""
    return np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:])))
