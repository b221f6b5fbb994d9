"""What is installed, what works, and the fix for what doesn't: one line each."""

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
from clouds_deploy.errors import CloudsError, first_line

sys.modules[__name__].__class__ = VerbModule

Verdict = Literal["ok", "absent", "fault"]


@dataclass(frozen=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        name: What was looked at.
        verdict: `ok`, `absent` (an option that is not installed) or `fault` (something core is broken).
        detail: What was found.
        fix: What to type when the verdict is not `ok`.
    """

    name: str
    verdict: Verdict
    detail: str
    fix: str = ""


def doctor() -> dict[str, Any]:
    """Look at everything the toolkit can use.

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

    detail = (
        f"{torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    )
    return "ok", detail, ""


def _gpu() -> tuple[Verdict, str, str]:
    import torch

    if torch.cuda.is_available():
        return "ok", torch.cuda.get_device_name(), ""
    built = torch.version.cuda
    why = "this torch is a CPU build" if built is None else f"torch is built for CUDA {built}, no device seen"
    return "absent", why, "everything but CUDA and TensorRT engines runs without one"


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
        return "absent", "not installed", 'pip install "clouds-deploy[cpu]"'
    onnxruntime = importlib.import_module("onnxruntime")
    listed = ", ".join(p.removesuffix("ExecutionProvider") for p in onnxruntime.get_available_providers())
    return "ok", f"{both[0]} {onnxruntime.__version__} (lists {listed}; what runs is checked per session)", ""


def _openvino() -> tuple[Verdict, str, str]:
    if not _version("openvino"):
        return "absent", "not installed", 'pip install "clouds-deploy[cpu]"'
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    able = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    bf16 = "bf16" if "BF16" in able else "no bf16"
    return "ok", f"{_version('openvino')}, devices {', '.join(core.available_devices)}, {bf16}", ""


def _optional(package: str, module: str, fix: str) -> Callable[[], tuple[Verdict, str, str]]:
    def look() -> tuple[Verdict, str, str]:
        version = _version(package)
        if not version:
            return "absent", "not installed", fix
        try:
            importlib.import_module(module)
        except Exception as error:
            return "absent", f"{version} is installed but does not import: {first_line(error)}", fix
        return "ok", version, ""

    return look


def _required(package: str, module: str) -> Callable[[], tuple[Verdict, str, str]]:
    def look() -> tuple[Verdict, str, str]:
        from clouds_deploy.models.libraries import torchvision_mode

        version = _version(package)
        if not version:
            return "fault", "not installed", f"pip install -c constraints.txt {package}"
        torchvision_mode()
        importlib.import_module(module)
        return "ok", version, ""

    return look


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


_LOOKS: dict[str, Callable[[], tuple[Verdict, str, str]]] = {
    "machine": _machine,
    "python": _python,
    "torch": _torch,
    "gpu": _gpu,
    "torchvision": _torchvision,
    "timm": _required("timm", "timm"),
    "open_clip": _required("open_clip_torch", "open_clip"),
    "efficientnet_lite0": _lite0,
    "onnx": _required("onnx", "onnx"),
    "onnxscript": _required("onnxscript", "onnxscript"),
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tensorrt": _optional(
        "tensorrt", "tensorrt", 'pip install "clouds-deploy[tensorrt]" (needs NVIDIA\'s index)'
    ),
    "tensorrt-rtx": _optional("tensorrt-rtx", "tensorrt_rtx", 'pip install "clouds-deploy[tensorrt-rtx]"'),
    "serve (starlette)": _optional("starlette", "starlette", 'pip install "clouds-deploy[serve]"'),
    "video (av)": _optional("av", "av", 'pip install "clouds-deploy[video]"'),
    "tensorboard": _optional("tensorboard", "tensorboard", "pip install tensorboard"),
}
