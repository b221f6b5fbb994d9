"""The device that a command computes on: one rule for `--device` in every command."""

from __future__ import annotations

import re

from clouds_deploy.errors import CloudsError

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def resolve_device(device: str, backend: str) -> str:
    """Returns the device that a backend computes on: `cpu` or `cuda:N`.

    Args:
        device: `auto` (the first GPU that the backend can use, else the CPU), `cpu`, `cuda` or `cuda:N`.
        backend: What computes, such as `torch`.

    Raises:
        CloudsError: There is no such device here, or the backend cannot use it.
    """
    if not _DEVICE.fullmatch(device):
        raise CloudsError(f"there is no device `{device}`", "use auto, cpu, cuda or cuda:N")
    if device == "cpu":
        return device
    count = _gpus(backend)
    if device == "auto":
        return "cuda:0" if count else "cpu"
    number = int(device.partition(":")[2] or 0)
    if number >= count:
        found = f"it can use {count}, from cuda:0 on" if count else "it can use none"
        raise CloudsError(f"`{backend}` cannot compute on {device} here: {found}", "use --device cpu or auto")
    return f"cuda:{number}"


def _gpus(backend: str) -> int:
    """Number of GPUs that a backend can use here."""
    if backend.startswith("torch"):
        from clouds_deploy.backends.torch_session import gpu_count

        return gpu_count()
    return 0
