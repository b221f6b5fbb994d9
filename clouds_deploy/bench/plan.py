"""What a bench is asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.backends.device import resolve_device
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.bench import Suite


@dataclass(frozen=True)
class Plan:
    """How to time.

    Attributes:
        suite: The settings.
        batch: Images per call.
        peak: What this machine's matrix product reaches, see `machine.matmul_peak`.
        device: See `BenchOptions`.
        weights: See `BenchOptions`.
    """

    suite: Suite
    batch: int
    peak: Mapping[str, float]
    device: str = "cpu"
    weights: Path | None = None

    def device_of(self, backend: str) -> str:
        """The device to open a backend on; PyTorch's by its number, as other code needs it too."""
        return resolve_device(self.device, backend) if backend.startswith("torch") else self.device


def repeated(array: Array, rows: int) -> Array:
    """An array with as many rows as asked for, its own repeated."""
    return np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:])))
