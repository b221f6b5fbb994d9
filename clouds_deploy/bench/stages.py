"""Where a call's time goes: on the device, in transfers, and in files; energy where the GPU counts it."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from clouds_deploy.backends.session import Session, Staged
from clouds_deploy.bench.plan import Plan
from clouds_deploy.bench.timing import Timing, measure
from clouds_deploy.bundles.tensors import Array

Call = Callable[[], object]
PARTS = {
    "device_ms": "device",
    "transfer_ms": "transfer",
    "files_ms": "decode and encode",
    "end_to_end_ms": "PNG to PNG",
}
"""What `time_stages` gives, with the names that a report has for it."""
ENERGY_CALLS = 20


def time_stages(
    sessions: Mapping[str, Session],
    feeds: Mapping[str, Array],
    plan: Plan,
    labels: str | None = None,
) -> dict[str, dict[str, float | None]]:
    """Times the parts of every backend's call, interleaved.

    Args:
        sessions: The backends by name.
        feeds: The inputs of a call.
        plan: How to time.
        labels: The output that becomes PNGs, of a graph whose one input is images; None leaves files out.

    Returns:
        For each backend the milliseconds `device_ms`, of the backend's own work, with inputs and outputs
        where it computes; `transfer_ms`, what a call takes beyond that, the median over the rounds;
        `files_ms`, what decoding a PNG for every image and encoding one of its labels adds, one after the
        other; and `end_to_end_ms`. None where it could not be measured. `joules` a call, see `joules_of`.
    """
    candidates: dict[tuple[str, str], Call] = {}
    for name, session in sessions.items():
        candidates[name, "call"] = partial(session.run, feeds)
        if isinstance(session, Staged):
            candidates[name, "device"] = session.stage(feeds)
        if labels is not None:
            candidates[name, "end"] = _from_files(session, feeds, labels)
    timings = measure({" ".join(key): call for key, call in candidates.items()}, rounds=plan.suite.rounds,
                      seconds=plan.suite.seconds / 2)  # fmt: skip
    found = {}
    for name, session in sessions.items():
        device, call, end = (timings.get(f"{name} {part}") for part in ("device", "call", "end"))
        found[name] = {
            "device_ms": None if device is None else device.percentile(50),
            "transfer_ms": _beyond(call, device),
            "files_ms": _beyond(end, call),
            "end_to_end_ms": None if end is None else end.percentile(50),
            "joules": joules_of(partial(session.run, feeds), session.device),
        }
    return found


def joules_of(call: Call, device: str) -> float | None:
    """Energy that a call takes of a GPU, by NVIDIA's counter.

    The counter is in millijoules and moves about every tenth of a second, so several calls share a reading;
    it counts all that the GPU does meanwhile, idling too.

    Args:
        call: What to run.
        device: Where it runs, in PyTorch's words or ONNX Runtime's.

    Returns:
        Joules; None off a GPU, without `nvidia-ml-py`, or where the GPU does not count.
    """
    if "cuda" not in device.lower():
        return None
    number = int(device.rpartition(":")[2]) if ":" in device else 0
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the package or the driver is missing: an aside to the timings, no error
        return None
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(number)
        before = nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        for _ in range(ENERGY_CALLS):
            call()
        return float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000 / ENERGY_CALLS
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _beyond(longer: Timing | None, shorter: Timing | None) -> float | None:
    """Median over the rounds of what one takes more than the other; noise below zero counts as zero."""
    if longer is None or shorter is None:
        return None
    return max(0.0, float(np.median(longer.rounds - shorter.rounds)))


def _from_files(session: Session, feeds: Mapping[str, Array], labels: str) -> Call:
    """From a PNG of each image to a PNG of its labels, both in memory: disks are another matter."""
    (name, images), *rest = feeds.items()
    assert not rest
    files = [_png(image) for image in images]

    def call() -> list[bytes]:
        pictures = np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])
        return [_png(row) for row in session.run({name: pictures})[labels]]

    return call


def _png(array: Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()
