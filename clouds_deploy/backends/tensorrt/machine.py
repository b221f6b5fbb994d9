"""The GPU, driver and TensorRT of this machine, as far as engines depend on them."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ENGINES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""The module of every engine that is built from a graph."""
_TEGRA = Path("/etc/nv_tegra_release")
_PROC = Path("/proc/driver/nvidia")
_TOOLKIT = Path("/usr/local/cuda/version.json")


@dataclass(frozen=True)
class Machine:
    """Versions and GPU of a machine, as far as engines depend on them.

    Attributes:
        versions: The installed version of every engine that is, by name.
        sm: Compute capability of the GPU, such as `89`; None without one, or where none could be asked for.
        gpu: Its name.
        driver: Version of its driver, such as `580.65`; None without one.
        asked: Whether the driver or the CUDA runtime could be asked about GPUs at all.
        cuda: CUDA version that an installed engine is made for, by the engine's name, such as `12` or `12.6`.
        cuda_driver: Newest CUDA version that the driver runs, such as `12.6`.
        pci: PCI bus id of the GPU, such as `0000:65:00.0`.
        platform: Operating system and processor, such as `linux-x86_64`.
        tegra: Whether it is a Jetson or another Tegra, whose drivers are numbered apart.
    """

    versions: Mapping[str, str]
    sm: str | None
    gpu: str | None
    driver: str | None
    asked: bool = True
    cuda: Mapping[str, str] = field(default_factory=dict)
    cuda_driver: str | None = None
    pci: str | None = None
    platform: str = "linux-x86_64"
    tegra: bool = False

    @staticmethod
    def here(index: int = 0) -> Machine:
        """This machine; needs neither PyTorch nor CUDA.

        Args:
            index: Number of the GPU as CUDA counts, after CUDA_VISIBLE_DEVICES.
        """
        versions = {}
        for name in ENGINES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        cuda = {name: made_for for name in versions if (made_for := _made_for(name)) is not None}
        runtime = _ask_runtime(index)
        nvml = _ask_nvml(index, (runtime or {}).get("pci"))
        found = {**(nvml or {}), **{k: v for k, v in (runtime or {}).items() if v is not None}}
        found.setdefault("driver", _kernel_module())
        return Machine(
            versions,
            **{name: found.get(name) for name in ("sm", "gpu", "driver", "cuda_driver", "pci")},
            asked=runtime is not None or nvml is not None or not _any_sign(),
            cuda=cuda,
            platform=f"{platform.system()}-{platform.machine()}".lower(),
            tegra=is_tegra(),
        )

    def built_on(self, engine: str) -> dict[str, str | None]:
        """What an engine's entry records of the machine that built it."""
        return {
            "gpu": self.gpu,
            "sm": self.sm,
            "pci": self.pci,
            "driver": self.driver,
            "cuda": self.cuda.get(engine),
            "platform": self.platform,
        }


def is_tegra() -> bool:
    """Whether this is a Jetson or another Tegra."""
    return _TEGRA.exists() or "tegra" in platform.release()


def gpu_count() -> int:
    """Number of NVIDIA GPUs here, by the CUDA runtime, the driver's management library, or the kernel."""
    runtime = _runtime()
    if runtime is not None:
        status, count = runtime.cudaGetDeviceCount()
        return int(count) if int(status) == 0 else 0
    nvml = _nvml()
    if nvml is not None:
        return int(nvml.nvmlDeviceGetCount())
    return len(list(_PROC.glob("gpus/*")))


def numbers(version: str) -> tuple[int, ...]:
    """The numbers a version begins with: `10.14.1.48.post1` is 10, 14, 1, 48."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found.group().split("."))) if found else ()


def choose_card(
    cards: Sequence[Mapping[str, str]], index: int, pci: str | None, environment: Mapping[str, str]
) -> int | None:
    """The GPU, as the driver's management library counts, that CUDA calls `cuda:index`.

    CUDA leaves out and renumbers GPUs by CUDA_VISIBLE_DEVICES, and counts the fastest first unless
    CUDA_DEVICE_ORDER says PCI_BUS_ID; the library does neither.

    Args:
        cards: `pci` and `uuid` of every GPU, in the library's order.
        index: As CUDA counts.
        pci: The PCI bus id that the CUDA runtime gives for it; None where it could not be asked.
        environment: The process's variables.

    Returns:
        Position in `cards`; None where it cannot be told.
    """
    if pci is not None:
        return next((i for i, card in enumerate(cards) if same_pci(card["pci"], pci)), None)
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    sure = len(cards) == 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if visible is None:
        return index if sure and index < len(cards) else None
    names = [name.strip() for name in visible.split(",")]
    if index >= len(names):
        return None
    name = names[index]
    if name.isdigit():
        return int(name) if sure and int(name) < len(cards) else None
    found = [i for i, card in enumerate(cards) if name and card["uuid"].startswith(name)]
    return found[0] if len(found) == 1 else None


def same_pci(one: str, other: str) -> bool:
    """Whether two PCI bus ids are the same, `00000000:65:00.0` and `0000:65:00.0`."""
    return _pci(one) == _pci(other)


def _pci(name: str) -> tuple[int, ...]:
    return tuple(int(part, 16) for part in re.split(r"[:.]", name))


def _runtime() -> Any:
    """CUDA's runtime, through NVIDIA's bindings; None where they are not installed."""
    try:
        from cuda.bindings import runtime
    except Exception:  # also where they do not load
        return None
    return runtime


def _ask_runtime(index: int) -> dict[str, str | None] | None:
    """What the CUDA runtime knows; None where it cannot be asked."""
    runtime = _runtime()
    if runtime is None:
        return None
    status, version = runtime.cudaDriverGetVersion()
    driver = f"{version // 1000}.{version % 1000 // 10}" if int(status) == 0 and version else None
    status, count = runtime.cudaGetDeviceCount()
    if int(status) != 0 or index >= int(count):
        return {"cuda_driver": driver}
    status, about = runtime.cudaGetDeviceProperties(index)
    if int(status) != 0:
        return {"cuda_driver": driver}
    status, pci = runtime.cudaDeviceGetPCIBusId(32, index)
    return {
        "cuda_driver": driver,
        "sm": f"{about.major}{about.minor}",
        "gpu": _text(about.name),
        "pci": _text(pci) if int(status) == 0 else None,
    }


def _nvml() -> Any:
    """NVIDIA's management library, initialised; None where it or its bindings are not there."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no bindings, no library, no driver: each a kind of its own
        return None
    return pynvml


def _ask_nvml(index: int, pci: str | None) -> dict[str, str | None] | None:
    """What the management library knows; None where it cannot be asked. Some Jetsons answer in part.

    Args:
        index: As CUDA counts.
        pci: Its PCI bus id, where the CUDA runtime gave it.
    """
    nvml = _nvml()
    if nvml is None:
        return None

    def ask(name: str, *words: Any) -> Any:
        try:
            return getattr(nvml, name)(*words)
        except nvml.NVMLError:
            return None

    version = ask("nvmlSystemGetCudaDriverVersion_v2")
    found: dict[str, str | None] = {
        "driver": _text(ask("nvmlSystemGetDriverVersion")),
        "cuda_driver": f"{version // 1000}.{version % 1000 // 10}" if version else None,
    }
    handles = [ask("nvmlDeviceGetHandleByIndex", i) for i in range(ask("nvmlDeviceGetCount") or 0)]
    cards = []
    for handle in handles:
        about = ask("nvmlDeviceGetPciInfo", handle)
        cards.append(
            {
                "pci": _text(about.busId) or "0:0:0.0" if about else "0:0:0.0",
                "uuid": _text(ask("nvmlDeviceGetUUID", handle)) or "",
            }
        )
    chosen = choose_card(cards, index, pci, os.environ)
    if chosen is None:
        return found
    capability = ask("nvmlDeviceGetCudaComputeCapability", handles[chosen])
    return {
        **found,
        "sm": f"{capability[0]}{capability[1]}" if capability else None,
        "gpu": _text(ask("nvmlDeviceGetName", handles[chosen])),
        "pci": cards[chosen]["pci"],
    }


def _text(value: Any) -> str | None:
    """A name as the bindings give it: text, or bytes that end with zeros."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return None if value is None else str(value).rstrip("\0").strip() or None


def _kernel_module() -> str | None:
    """Version of the driver's kernel module."""
    try:
        text = (_PROC / "version").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"Kernel Module.*?\s(\d+\.[\d.]+)", text)
    return found.group(1) if found else None


def _any_sign() -> bool:
    """Whether anything hints at an NVIDIA GPU; not on Linux alone can that be told without a library."""
    return _PROC.exists() or is_tegra() or platform.system() != "Linux"


def _made_for(engine: str) -> str | None:
    """CUDA version that the installed engine is made for, by the name of its wheel or JetPack's toolkit."""
    for major in range(11, 20):
        try:
            importlib.metadata.version(f"{ENGINES[engine]}_cu{major}_libs")
        except importlib.metadata.PackageNotFoundError:
            continue
        return str(major)
    try:
        version = json.loads(_TOOLKIT.read_text(encoding="utf-8"))["cuda"]["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return ".".join(str(version).split(".")[:2])
