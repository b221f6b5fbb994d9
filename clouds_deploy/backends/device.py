"""The device that a command computes on: one rule for `--device` in every command."""

from __future__ import annotations

import re
from functools import cache

from clouds_deploy.backends.tensorrt.machine import ENGINES, gpu_count
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def resolve_device(device: str, backend: str) -> str:
    """Returns the device that a backend computes on: `cpu` or `cuda:N`.

    Args:
        device: `auto` (the first GPU that the backend can use, else the CPU), `cpu`, `cuda` or `cuda:N`; for
            OpenVINO also another device that it lists, such as `GPU`, which is returned as it is.
        backend: What computes, such as `torch`.

    Raises:
        CloudsError: There is no such device here, or the backend cannot use it.
    """
    if not _DEVICE.fullmatch(device):
        if backend == "openvino" and re.fullmatch(r"[A-Z][A-Z0-9.]*", device):
            return device
        raise CloudsError(f"there is no device `{device}`", "use auto, cpu, cuda or cuda:N")
    if backend in ENGINES:
        if device == "cpu":
            raise CloudsError(
                f"engines of {backend} run on NVIDIA GPUs only",
                "use --device auto, or another --backend",
            )
        return "cuda:0" if device in ("auto", "cuda") else device  # whether it is there: see check_engine
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
        from clouds_deploy.backends import torch_session

        return torch_session.gpu_count()
    if backend == "onnxruntime":
        from clouds_deploy.backends.onnxruntime_session import lists_cuda

        return gpu_count() if lists_cuda() else 0
    return 0


@cache
def announce(device: str, backend: str, precision: str = "fp32") -> None:
    """Says on standard error where a command computes, once for every combination."""
    say(f"  device       {device}, {backend}" + ("" if precision == "fp32" else f" in {precision}"))
