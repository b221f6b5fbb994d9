"""Checks before an engine is loaded: file, version, GPU and driver.

A mismatched engine can crash the process or give wrong results.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import sha256
from clouds_deploy.errors import CloudsError

ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The module of every engine that is built from a graph."""
_LEAST_DRIVER = 580
"""CUDA 13's, which the wheels of TensorRT-RTX 1.7 and TensorRT 11 are made for."""


@dataclass(frozen=True)
class Machine:
    """Versions and GPU of a machine, as far as engines depend on them.

    Attributes:
        versions: The installed version of every engine that is, by name.
        sm: Compute capability of the GPU, such as `89`; None without one.
        gpu: Its name.
        driver: Version of its driver, such as `580.65`; None without one.
    """

    versions: Mapping[str, str]
    sm: str | None
    gpu: str | None
    driver: str | None

    @staticmethod
    def here() -> Machine:
        """This machine; needs neither PyTorch nor CUDA."""
        versions = {}
        for name in ENGINES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return Machine(versions, *_gpu())


def _driver() -> Any:
    """NVIDIA's management library, initialised; None without a driver."""
    try:
        nvml: Any = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    return nvml if nvml.nvmlInit_v2() == 0 else None


def gpu_count() -> int:
    """Number of NVIDIA GPUs that the driver sees."""
    nvml, count = _driver(), ctypes.c_uint()
    return count.value if nvml is not None and nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0


def _gpu() -> tuple[str | None, str | None, str | None]:
    """Capability, name and driver version of the first GPU."""
    nvml = _driver()
    if nvml is None:
        return None, None, None
    handle, major, minor = ctypes.c_void_p(), ctypes.c_int(), ctypes.c_int()
    name, driver = ctypes.create_string_buffer(96), ctypes.create_string_buffer(96)
    calls: tuple[Callable[[], int], ...] = (
        lambda: nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(handle)),
        lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor)),
        lambda: nvml.nvmlDeviceGetName(handle, name, 96),
        lambda: nvml.nvmlSystemGetDriverVersion(driver, 96),
    )
    if any(call() != 0 for call in calls):
        return None, None, None
    return f"{major.value}{minor.value}", name.value.decode(), driver.value.decode()


def check_engine(facts: Mapping[str, Any], bundle: Path, machine: Machine) -> None:
    """Refuses an engine that this machine cannot run.

    Args:
        facts: What `build_engine` gave for it.
        bundle: The directory its `file` is in.
        machine: Where it is to run.

    Raises:
        CloudsError: The file is missing or was changed; its TensorRT is not installed or has another version;
            there is no GPU, or one that it was not built for; the driver is too old. All faults are named,
            each with its fix.
    """
    path, name = bundle / facts["file"], str(facts["engine"])
    faults: list[tuple[str, str]] = []
    if not path.is_file():
        faults.append((f"{path} is missing", "copy the bundle whole"))
    elif sha256(path) != facts["sha256"]:
        faults.append((f"{path} was changed after it was built", "copy the bundle again"))
    built, installed = str(facts["version"]), machine.versions.get(name)
    if installed is None:
        faults.append((f"{name} is not installed", f"pip install {name}=={built}"))
    elif installed != built and not facts.get("version_compatible"):
        faults.append(
            (
                f"it was built by {name} {built}, and {installed} is installed",
                f"pip install {name}=={built}, or export it again",
            )
        )
    if machine.sm is None:
        faults.append(
            ("there is no NVIDIA GPU, or no driver", "run the graph: onnxruntime and openvino need none")
        )
    elif facts["sms"] and machine.sm not in facts["sms"]:
        wanted = ", ".join(facts["sms"])
        faults.append(
            (
                f"it was built for SM {wanted}, and this GPU ({machine.gpu}) has {machine.sm}",
                f"export it again with --sm {machine.sm}",
            )
        )
    if machine.driver is not None and int(machine.driver.split(".")[0]) < _LEAST_DRIVER:
        faults.append((f"driver {machine.driver} is older than {_LEAST_DRIVER}", "update the NVIDIA driver"))
    if faults:
        raise CloudsError(
            f"{path.name} cannot run here: " + "; ".join(fault for fault, _ in faults),
            "; ".join(fix for _, fix in faults),
        )
