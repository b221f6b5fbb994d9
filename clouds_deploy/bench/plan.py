"""What a bench is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.backends.device import resolve_device
from clouds_deploy.backends.tensorrt.machine import ENGINES
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.bench import Suite
from clouds_deploy.errors import CloudsError


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


def common_device(device: str, backends: Sequence[str]) -> str:
    """The device that all backends of a table compute on.

    Args:
        device: As `resolve_device` takes it.
        backends: What is timed.

    Raises:
        CloudsError: There is no such device for all of them.
    """
    found = {name: resolve_device(device, name.partition("-bf16")[0]) for name in backends}
    if len(set(found.values())) <= 1:
        return next(iter(found.values()), device)
    if device == "auto" and not any(name in ENGINES for name in backends):
        return "cpu"
    places = ", ".join(f"{name} on {where}" for name, where in found.items())
    raise CloudsError(
        f"these backends share no device: {places}",
        "name those of one device with --backend, or add --mixed-devices (no speed-up between devices)",
    )


def repeated(array: Array, rows: int) -> Array:
    """An array with as many rows as asked for, its own repeated."""
    return np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:])))
