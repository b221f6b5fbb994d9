"""Checks before an engine is loaded: file, version, GPU and driver.

A mismatched engine can crash the process or give wrong results. `judge` and the C++ library's machine.cpp
follow the same rules, which tests/backends/engine_situations.json holds both to.

Sources: NVIDIA's CUDA release notes (least driver of each CUDA version, minor-version compatibility), the
TensorRT support matrix and its pages on version and hardware compatibility.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from clouds_deploy.artifacts import sha256
from clouds_deploy.backends.tensorrt.machine import Machine, numbers
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError

LEAST_DRIVER = {11: "450.80.02", 12: "525.60.13", 13: "580"}
"""Least driver by the CUDA major that a library is made for."""
LEAST_TEGRA_DRIVER = {12: "540", 13: "580"}
"""The same of a Tegra: JetPack 6 and 7. JetPack 5, CUDA 11, does not number its driver so."""
WIDE_DRIVER = {12: "535"}
"""From here on every GPU is supported; between the least driver and this one data-centre cards only."""
DATA_CENTRE = ("A2", "A10", "A16", "A30", "A40", "A100", "A800", "B100", "B200", "GB200", "GH200", "H100",
               "H20", "H200", "H800", "L2", "L4", "L20", "L40", "L40S", "P100", "T4", "V100")  # fmt: skip
"""Data-centre cards, as a word of a GPU's name, which may go on with `-SXM4` or the like."""


@dataclass(frozen=True)
class Finding:
    """A fault of an engine on a machine, or a doubt.

    Attributes:
        code: In a word, the same in C++.
        what: For people.
        fix: What to do.
    """

    code: str
    what: str
    fix: str


def judge(facts: Mapping[str, Any], machine: Machine) -> tuple[list[Finding], list[Finding]]:
    """What keeps an engine from running on a machine, and what makes that doubtful.

    Args:
        facts: What `build_engine` gave for it.
        machine: Where it is to run.

    Returns:
        Faults and doubts; an engine with doubts only is loaded, and TensorRT has the last word.
    """
    faults: list[Finding] = []
    doubts: list[Finding] = []
    _judge_version(facts, machine, faults)
    if machine.sm is not None:
        _judge_gpu(facts, machine, faults, doubts)
    elif machine.asked:
        faults.append(
            Finding(
                "gpu",
                "there is no NVIDIA GPU, or no driver",
                "run the graph: onnxruntime and openvino need none",
            )
        )
    else:
        doubts.append(
            Finding("gpu", "the GPU could not be asked about", "pip install cuda-bindings nvidia-ml-py")
        )
    _judge_platform(facts, machine, faults)
    _judge_driver(facts, machine, faults, doubts)
    return faults, doubts


def _judge_version(facts: Mapping[str, Any], machine: Machine, faults: list[Finding]) -> None:
    name, built = str(facts["engine"]), str(facts["version"])
    installed = machine.versions.get(name)
    if installed is None:
        faults.append(Finding("installed", f"{name} is not installed", f"pip install {name}=={built}"))
        return
    own, wanted = numbers(installed), numbers(built)
    least = min(len(own), len(wanted))  # JetPack's package leaves the build number out
    same = own[:least] == wanted[:least] if least >= 2 else own == wanted
    if same or (facts.get("version_compatible") and own > wanted):
        return
    faults.append(
        Finding(
            "version",
            f"it was built by {name} {built}, and {installed} is installed",
            f"pip install {name}=={built}, or export it again",
        )
    )


def _judge_gpu(
    facts: Mapping[str, Any], machine: Machine, faults: list[Finding], doubts: list[Finding]
) -> None:
    sms, built = list(facts.get("sms") or ()), facts.get("built_on") or {}
    gpu, sm = machine.gpu, machine.sm
    if sms:
        if sm not in sms:
            faults.append(
                Finding(
                    "sm",
                    f"it was built for SM {', '.join(sms)}, and this GPU ({gpu}) has {sm}",
                    f"export it again with --sm {sm}",
                )
            )
        return
    own = built.get("sm")
    again = f"build it here: clouds-deploy engine build BUNDLE --engine {facts['engine']}"
    if own is None:
        doubts.append(Finding("origin", "it does not record the GPU that it was built on", again))
    elif own != sm:
        ampere = min(int(own), int(str(sm))) >= 80
        if not (facts.get("hardware_compatible") and ampere and not machine.tegra):
            faults.append(
                Finding(
                    "sm",
                    f"it was built on {built.get('gpu')} with SM {own}, and this GPU ({gpu}) has {sm}",
                    again,
                )
            )
    elif built.get("gpu") not in (None, gpu):
        doubts.append(
            Finding(
                "model",
                f"it was built on {built['gpu']} and tuned for it; this is {gpu} of the same SM {sm}",
                again,
            )
        )


def _judge_platform(facts: Mapping[str, Any], machine: Machine, faults: list[Finding]) -> None:
    built = (facts.get("built_on") or {}).get("platform")
    if facts["engine"] == "tensorrt" and built not in (None, machine.platform):
        faults.append(
            Finding(
                "platform",
                f"it was built on {built}, and this is {machine.platform}",
                "build it here: clouds-deploy engine build BUNDLE --engine tensorrt",
            )
        )


def _judge_driver(
    facts: Mapping[str, Any], machine: Machine, faults: list[Finding], doubts: list[Finding]
) -> None:
    """Compares the driver with the CUDA version that the installed library is made for."""
    cuda = machine.cuda.get(str(facts["engine"])) or (facts.get("built_on") or {}).get("cuda")
    if machine.sm is None and machine.asked:
        return  # no GPU: said already
    if cuda is None or (machine.cuda_driver is None and machine.driver is None):
        doubts.append(
            Finding(
                "driver",
                "whether the driver is new enough could not be found out",
                "compare `nvidia-smi` with the support matrix of TensorRT",
            )
        )
        return
    major = numbers(cuda)[0]
    update = "update the NVIDIA driver" if not machine.tegra else "update JetPack"
    if machine.cuda_driver is not None:
        if numbers(machine.cuda_driver)[0] < major:
            driver = f"driver {machine.driver}" if machine.driver else "the driver"
            text = f"{driver} runs CUDA up to {machine.cuda_driver}, and {facts['engine']} needs CUDA {major}"
            faults.append(Finding("driver", text, update))
        return
    least = (LEAST_TEGRA_DRIVER if machine.tegra else LEAST_DRIVER).get(major)
    driver = str(machine.driver)
    if least is not None and numbers(driver) < numbers(least):
        text = f"driver {driver} is older than {least}, which {facts['engine']} for CUDA {major} needs"
        faults.append(Finding("driver", text, update))
    elif (
        not machine.tegra
        and major in WIDE_DRIVER
        and numbers(driver) < numbers(WIDE_DRIVER[major])
        and not _is_data_centre(machine.gpu)
    ):
        text = f"driver {driver} runs CUDA {major} on data-centre cards; others need {WIDE_DRIVER[major]}"
        doubts.append(Finding("driver", text, update))


def _is_data_centre(gpu: str | None) -> bool:
    return any(word.split("-")[0] in DATA_CENTRE for word in (gpu or "").split())


def runs_here(entries: Iterable[Mapping[str, Any]], machine: Machine) -> bool:
    """Whether there is a GPU that engines run on, by `judge`."""
    return machine.sm is not None and not any(judge(entry, machine)[0] for entry in entries)


def check_engine(facts: Mapping[str, Any], bundle: Path, machine: Machine) -> None:
    """Refuses an engine that this machine cannot run; says what makes it doubtful that it can.

    Args:
        facts: What `build_engine` gave for it.
        bundle: The directory its `file` is in.
        machine: Where it is to run.

    Raises:
        CloudsError: The file is missing or was changed, or there is a fault by `judge`. All faults are named,
            each with its fix.
    """
    path = bundle / facts["file"]
    faults, doubts = judge(facts, machine)
    if not path.is_file():
        faults.insert(0, Finding("file", f"{path} is missing", "copy the bundle whole"))
    elif sha256(path) != facts["sha256"]:
        faults.insert(0, Finding("file", f"{path} was changed after it was built", "copy the bundle again"))
    if faults:
        raise CloudsError(
            f"{path.name} cannot run here: " + "; ".join(found.what for found in faults),
            "; ".join(found.fix for found in faults),
        )
    for doubt in doubts:
        warn(escape(f"{path.name}: {doubt.what} ({doubt.fix})"))
