"""Configuring and building engines/cpp for the tests, once, into build/ where the next run finds it again."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "engines" / "cpp"
BUILDS = ROOT / "build" / "cpp"
ARGUMENTS = "CLOUDS_CPP_CMAKE_ARGS"
"""Of the environment: more arguments for cmake, such as -DONNXRUNTIME_ROOT=/opt/onnxruntime."""


def require_tools() -> None:
    """Skip where C++ cannot be built."""
    for tool, package in (("cmake", "cmake"), ("c++", "g++")):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: the C++ runtime is not built (apt-get install {package})")


def openvino_dir() -> str:
    """Where the wheel keeps OpenVINO's CMake files."""
    openvino = pytest.importorskip("openvino")
    return str(Path(openvino.__file__).parent / "cmake")


def json_root() -> str:
    """The folder of the wheel that holds `include/nlohmann/json.hpp`."""
    return str(Path(pytest.importorskip("nlohmann_json").__file__).parent)


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
    """Run and capture; the caller looks at the code."""
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


_MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=60)
sys.stdout.buffer.write(done.stdout)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(done.returncode % 256)
"""


def run_measured(command: list[str]) -> tuple[int, str, float]:
    """Run within a minute; its code (modulo 256), what it printed, and the most memory it held in MB."""
    # by a small process: a child's peak begins with that of the process that forked it
    done = run([sys.executable, "-c", _MEASURED, *command])
    return done.returncode, done.stdout, int(done.stderr.split()[-1]) / 1024


def succeed(command: list[str], **options: object) -> str:
    """Run what has to succeed; its output."""
    done = run(command, **options)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-4000:]}"
    return done.stdout + done.stderr


def build(name: str, *arguments: str, targets: tuple[str, ...] = ()) -> Path:
    """Build into a folder of its own; gives it."""
    require_tools()
    folder = BUILDS / name
    generator = ["-G", "Ninja"] if shutil.which("ninja") else []
    more = shlex.split(os.environ.get(ARGUMENTS, ""))
    succeed(
        [
            "cmake", "-S", str(SOURCE), "-B", str(folder), *(generator if not folder.is_dir() else []),
            f"-DOpenVINO_DIR={openvino_dir()}", f"-DNLOHMANN_JSON_ROOT={json_root()}", "-DCLOUDS_TESTS=ON",
            *arguments, *more,
        ]
    )  # fmt: skip
    wanted = ["--target", *targets] if targets else []
    succeed(["cmake", "--build", str(folder), "--parallel", str(os.cpu_count() or 1), *wanted])
    return folder


def python_environment() -> dict[str, str]:
    """The environment in which `python` is this one, for the commands of the documentation."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
