"""The machine: its speed at matrix products, its threads and load, and the memory that a backend needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from clouds_deploy.bench.timing import measure
from clouds_deploy.errors import installed

SIDE = 2048
_CHILD = """
import json, sys
from pathlib import Path
from clouds_deploy.inference.agreement import run_batched
from clouds_deploy.backends.backends import open_session
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.models.clouds.names import INPUT
path, backend, batch, device = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
bundle = open_bundle(path, verify=False)
images = bundle.reference()[INPUT]
session = open_session(bundle, backend, device=device)
run_batched(session, images.repeat(-(-batch // len(images)), axis=0)[:batch], batch)
status = Path("/proc/self/status").read_text()
print(json.dumps({"peak": int(status.split("VmHWM:")[1].split()[0]) / 1024}))
"""
"""The peak is read from /proc, not from getrusage, where a child starts at its parent's peak."""


def peak_memory(
    bundle: Path, backend: str, batch: int, device: str = "cpu", *, timeout: float = 120.0
) -> float | None:
    """Peak memory of a process that opens a backend and runs it once.

    Args:
        bundle: The bundle's directory, already verified.
        backend: The backend.
        batch: Images per call.
        device: Where it computes; the memory is the host's.
        timeout: Seconds to wait at most.

    Returns:
        Peak resident MiB, interpreter and libraries included; None if it could not be measured (not Linux, no
        answer in time), which is no error.
    """
    command = [sys.executable, "-c", _CHILD, str(bundle.resolve()), backend, str(batch), device]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=True)
        return float(json.loads(done.stdout.splitlines()[-1])["peak"])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError, KeyError):
        return None


def matmul_peak(seconds: float = 1.0) -> dict[str, float]:
    """Speed of a large square matrix product on the CPU, the yardstick beside every speed.

    Args:
        seconds: About how long it is timed for each type.

    Returns:
        GFLOP/s of the fastest call by type: `float32` and `bfloat16` of PyTorch on all its threads; without
        PyTorch `float32` of numpy.
    """
    found = {}
    for name, call in _products().items():
        timing = measure({name: call}, warmup=1, rounds=1, seconds=seconds)[name]
        found[name] = 2 * SIDE**3 / timing.minimum / 1e6
    return found


def _products() -> dict[str, Callable[[], object]]:
    if not installed("torch"):
        half = np.full((SIDE, SIDE), 0.5, np.float32)
        return {"float32": lambda: half @ half}
    import torch

    pairs = {
        name: [torch.randn(SIDE, SIDE).to(getattr(torch, name)) for _ in range(2)]
        for name in ("float32", "bfloat16")
    }
    return {name: lambda a=a, b=b: a @ b for name, (a, b) in pairs.items()}  # type: ignore[misc]


def threads() -> int:
    """Threads that PyTorch computes with; without it the processors."""
    if not installed("torch"):
        return int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    import torch

    return torch.get_num_threads()


def load() -> list[float] | None:
    """The machine's load over one, five and fifteen minutes; None where the system does not count it."""
    return [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None
