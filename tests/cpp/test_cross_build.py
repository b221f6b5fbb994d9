"""The library for 64-bit ARM, cross-compiled with Debian's compiler; its tests run under qemu."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from tests.cpp import builder

pytestmark = pytest.mark.slow
HEADERS = "CLOUDS_ONNXRUNTIME_HEADERS"
"""Of the environment: the folder of onnxruntime_cxx_api.h."""
PLATFORMS = ("manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
CPU = (
    "processor\t: {n}\nFeatures\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\n"
    "CPU part\t: 0xd08\nCPU revision\t: 3\n\n"
)
"""Two Cortex-A72, as Linux describes them."""


@pytest.fixture(scope="module")
def qemu() -> str:
    packages = {"aarch64-linux-gnu-g++": "crossbuild-essential-arm64", "qemu-aarch64": "qemu-user"}
    for tool, package in packages.items():
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} (apt-get install {package})")
    return str(shutil.which("qemu-aarch64"))


def build(name: str, *arguments: str, targets: tuple[str, ...]) -> Path:
    toolchain = builder.SOURCE / "cmake" / "aarch64-linux-gnu.cmake"
    return builder.build(
        name, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}", "-DCLOUDS_OPENVINO=OFF", *arguments, targets=targets
    )


def test_the_units_pass_under_qemu(qemu: str) -> None:
    made = build("aarch64", "-DCLOUDS_ONNXRUNTIME=OFF", targets=("clouds_unit", "clouds_selftest"))
    prefix = ["-L", "/usr/aarch64-linux-gnu"]
    assert "unit: ok" in builder.succeed([qemu, *prefix, str(made / "clouds_unit")])
    assert (made / "clouds_unit").read_bytes()[18:20] == b"\xb7\x00"  # EM_AARCH64


def test_onnx_runtime_labels_as_pytorch_does_under_qemu(qemu: str, toy: Path, tmp_path: Path) -> None:
    headers = os.environ.get(HEADERS)
    if not headers:
        pytest.skip(f"{HEADERS} names no folder of ONNX Runtime's headers")
    place = builder.BUILDS / "headers" / "onnxruntime-aarch64"
    if not place.is_dir():
        made = place.with_name(f"{place.name}.part")
        shutil.rmtree(made, ignore_errors=True)
        platforms = [word for one in PLATFORMS for word in ("--platform", one)]
        command = [
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            *platforms,
            "-d",
            str(made),
            "onnxruntime",
        ]
        done = builder.run([sys.executable, "-m", *command], timeout=300)
        if done.returncode != 0:
            pytest.skip(f"ONNX Runtime's wheel cannot be fetched: {done.stderr.strip()[-200:]}")
        (wheel,) = made.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (name,) = (n for n in archive.namelist() if "/libonnxruntime.so." in n)
            (made / "lib").mkdir()
            (made / "lib" / "libonnxruntime.so.1").write_bytes(archive.read(name))
        (made / "lib" / "libonnxruntime.so").symlink_to("libonnxruntime.so.1")
        wheel.unlink()
        made.rename(place)
    made = build(
        "aarch64-onnxruntime", "-DCLOUDS_ONNXRUNTIME=ON", f"-DONNXRUNTIME_INCLUDE={headers}",
        f"-DONNXRUNTIME_ROOT={place}", targets=("clouds_selftest",),
    )  # fmt: skip
    # ONNX Runtime reads /proc/cpuinfo, in which qemu-user before 8 shows it the host's processor
    prefix = tmp_path / "prefix"
    (prefix / "proc").mkdir(parents=True)
    (prefix / "lib").symlink_to("/usr/aarch64-linux-gnu/lib")
    (prefix / "proc" / "cpuinfo").write_text("".join(CPU.format(n=n) for n in range(2)))
    command = [qemu, "-cpu", "cortex-a72", "-L", str(prefix), str(made / "clouds_selftest"), str(toy)]
    assert "100.0000 %" in builder.succeed(command)
