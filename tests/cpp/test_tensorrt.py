"""The TensorRT backend compiles against the real headers, and links with libraries that do nothing.

No test here runs an engine. Headers are never part of the project: those of TensorRT come from its public
repository, CUDA's from PyPI. What cannot be fetched is skipped.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.bundles.bundle import FACTS, GRAPH, open_bundle
from tests.cpp import builder
from tests.cpp.toy import change_facts, seal, write_toy

HEADERS = "CLOUDS_TENSORRT_HEADERS"
"""Of the environment: a folder with the headers of each version and its parser, such as `10.3/NvInfer.h`."""
WHEELS = {
    12: ("nvidia-cuda-runtime-cu12==12.9.*", "nvidia-cuda-nvcc-cu12==12.9.*"),
    13: ("nvidia-cuda-runtime==13.*", "nvidia-cuda-crt==13.*"),
}
PAIRS = [("10.3", 12), ("10.13", 12), ("10.13", 13), ("11.1", 13)]
"""Versions of TensorRT and CUDA's majors: a Jetson of JetPack 6, workstations, and the newest of both."""
WARNINGS = ["-std=c++17", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"]


def tensorrt(version: str) -> list[Path]:
    """The folders of a version's headers and of its parser's, fetched once."""
    given = os.environ.get(HEADERS)
    if given and (Path(given) / version / "NvInfer.h").is_file():
        return [Path(given) / version]
    found = [cloned("NVIDIA/TensorRT", f"release/{version}", "include") / "include"]
    if not (found[0] / "NvOnnxParser.h").is_file():  # before 11 it is a repository of its own
        found.append(cloned("onnx/onnx-tensorrt", f"release/{version}-GA", "cmake"))
    return found


def cloned(repository: str, branch: str, folder: str) -> Path:
    """A shallow copy of one folder of a public repository, and of the files beside it."""
    place = builder.BUILDS / "headers" / f"{repository}-{branch}".replace("/", "-")
    if place.is_dir():
        return place
    made = place.with_name(f"{place.name}.part")
    shutil.rmtree(made, ignore_errors=True)
    clone = ["git", "clone", "-q", "--depth", "1", "--filter=blob:none", "--sparse", "--branch", branch]
    sparse = ["git", "-C", str(made), "sparse-checkout", "set", folder]
    for command in ([*clone, f"https://github.com/{repository}", str(made)], sparse):
        try:
            done = builder.run(command, timeout=60, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"})
        except (OSError, subprocess.TimeoutExpired):
            done = None
        if done is None or done.returncode != 0:
            shutil.rmtree(made, ignore_errors=True)
            pytest.skip(f"{repository} cannot be fetched; {HEADERS} may name a folder of the headers")
    return made.rename(place)


def cuda(major: int) -> list[Path]:
    """The folders of CUDA's headers, fetched once."""
    place = builder.BUILDS / "headers" / f"cuda-{major}"
    if not place.is_dir():
        made = place.with_name(f"{place.name}.part")
        shutil.rmtree(made, ignore_errors=True)
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "-d",
            str(made),
            *WHEELS[major],
        ]
        done = builder.run(command, timeout=300)
        if done.returncode != 0:
            pytest.skip(f"CUDA {major}'s wheels cannot be fetched: {done.stderr.strip()[-200:]}")
        for wheel in made.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(made, [name for name in archive.namelist() if "/include/" in name])
            wheel.unlink()
        made.rename(place)
    return sorted(
        path
        for path in place.rglob("include")
        if (path / "crt").is_dir() or (path / "cuda_runtime_api.h").is_file()
    )


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["g++", "clang++"])
@pytest.mark.parametrize(("version", "major"), PAIRS)
def test_it_compiles_without_a_warning(version: str, major: int, compiler: str) -> None:
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    found = [*tensorrt(version), *cuda(major)]
    headers = [word for path in found for word in ("-isystem", str(path))]
    own = [f"-I{builder.SOURCE / folder}" for folder in ("include", "src", "tools")]
    stubs = builder.SOURCE / "tests" / "stubs"
    for source in (
        builder.SOURCE / "src" / "tensorrt_backend.cpp",
        stubs / "nvinfer.cpp",
        stubs / "cudart.cpp",
    ):
        builder.succeed([compiler, "-fsyntax-only", *WARNINGS, *own, *headers, str(source)])


@pytest.mark.slow
@pytest.mark.parametrize(("version", "major"), [PAIRS[0], PAIRS[-1]])
def test_it_links_and_says_what_the_library_refuses(version: str, major: int, tmp_path: Path) -> None:
    """With libraries that have the right names and do nothing: marked as that, no more."""
    builder.require_tools()
    api, includes = ";".join(map(str, tensorrt(version))), cuda(major)
    runtime = next(path for path in includes if (path / "cuda_runtime_api.h").is_file())
    rest = ";".join(map(str, includes))
    stubs = builder.BUILDS / f"stubs-{version}-{major}"
    source = builder.SOURCE / "tests" / "stubs"
    given = [
        f"-DTENSORRT_INCLUDE={api}",
        f"-DCUDART_INCLUDE={runtime}",
        f"-DCRT_INCLUDE={rest}",
    ]
    builder.succeed(["cmake", "-S", str(source), "-B", str(stubs), *given])
    builder.succeed(["cmake", "--build", str(stubs)])
    build = builder.build(
        f"tensorrt-{version}-{major}", "-DCLOUDS_TENSORRT=ON", "-DCLOUDS_OPENVINO=OFF",
        "-DCLOUDS_ONNXRUNTIME=OFF", "-DCMAKE_BUILD_TYPE=Debug", f"-DTENSORRT_INCLUDE={api}",
        f"-DTENSORRT_ROOT={stubs}", f"-DCUDART_ROOT={stubs}", f"-DCUDART_INCLUDE={rest}",
        targets=("clouds_selftest", "clouds_unit", "clouds_build"),
    )  # fmt: skip
    assert "unit: ok" in builder.succeed([str(build / "clouds_unit")])
    bundle = write_toy(tmp_path / "bundle")
    engine = bundle / "engines" / "a.engine"
    engine.parent.mkdir()
    engine.write_bytes(b"an engine")
    seal(bundle)
    answer = builder.run([str(build / "clouds_selftest"), str(bundle), "--backend", "tensorrt"])
    assert answer.returncode == 2
    assert "has no engine for tensorrt" in answer.stderr
    facts = {"file": "engines/a.engine", "engine": "tensorrt", "sms": [], "version_compatible": True}
    change_facts(bundle, engines=[{**facts, "version": f"{version}.0", "sha256": sha256(engine)}])
    answer = builder.run([str(build / "clouds_selftest"), str(bundle), "--backend", "tensorrt"])
    assert answer.returncode == 2
    refused = "TensorRT refuses" in answer.stderr
    assert refused or "cannot run here" in answer.stderr, answer.stderr
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    answer = builder.run([str(build / "clouds_build"), str(bundle)])
    assert (answer.returncode, "TensorRT cannot make a builder" in answer.stderr) == (2, True), answer.stderr
    assert before == {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    answer = builder.run([str(build / "clouds_build"), str(bundle), "--batch", "4,1"])
    assert (answer.returncode, "is not a range" in answer.stderr) == (2, True), answer.stderr


@pytest.mark.parametrize("form", ["folder", "link"])
def test_an_engine_is_added_or_the_bundle_is_as_it_was(tmp_path: Path, internals: Any, form: str) -> None:
    real = write_toy(tmp_path / "real", text=True)
    bundle = real
    if form == "link":
        bundle = tmp_path / "linked"
        bundle.symlink_to(real)
    name = "engines/segmenter-tensorrt-10.3.0.26-sm87.engine"

    def content() -> dict[str, bytes]:
        return {p.relative_to(real).as_posix(): p.read_bytes() for p in real.rglob("*") if p.is_file()}

    def add(file: str, plan: bytes, refused: bool = False) -> str | None:
        answer = internals.add_engine(str(bundle).encode(), file.encode(), plan, int(refused))
        return answer and answer.decode().partition("\n")[0]

    proof = real / "proofs" / "Orin-tensorrt.json"
    proof.parent.mkdir()
    proof.write_text("{}")
    before = content()
    assert add(name, b"a plan", refused=True) == "the engine's labels are not those of the graph"
    assert "leads outside of it" in (add("../a.engine", b"a plan") or "")
    assert content() == before
    assert add(name, b"a plan") is None
    assert add(name, b"a better plan") is None
    after = content()
    assert set(after) == {*before, name}
    assert {k: v for k, v in after.items() if k not in (name, FACTS, MANIFEST)} == {
        k: v for k, v in before.items() if k not in (FACTS, MANIFEST)
    }
    (engine,) = open_bundle(bundle).facts["engines"]  # every hash holds
    assert (engine["file"], engine["built_on"]["sm"], engine["built_on"]["gpu"]) == (name, "87", "Orin")
    assert (real / name).read_bytes() == b"a better plan"
    assert {path.name for path in tmp_path.iterdir()} == {"real", "linked"} - ({"linked"} - {bundle.name})
    (real / GRAPH).write_bytes(b"another graph")
    assert "is not the file its manifest names" in (add(name, b"a third plan") or "")


@pytest.mark.parametrize(
    ("name", "shape", "want"),
    [
        ("image", [-1, 32, 64, 3], "1,32,64,3 4,32,64,3 8,32,64,3"),
        ("vocabulary", [-1, -1, 768], "19,10,768 19,10,768 19,10,768"),
        ("class_share", [-1], "19 19 19"),
        ("image_embeddings", [-1, 256, 64, 64], "1,256,64,64 1,256,64,64 1,256,64,64"),
        ("point_coords", [-1, -1, 2], "1,1,2 4,2,2 8,11,2"),
        ("image_index", [-1], "1 4 8"),
        ("other", [1, 2, -1], "`other` has a free size that no option names"),
    ],
)
def test_engines_take_these_shapes(internals: Any, name: str, shape: list[int], want: str) -> None:
    sizes = (ctypes.c_int64 * len(shape))(*shape)
    said = internals.engine_shapes(name.encode(), sizes, ctypes.c_size_t(len(shape)))
    assert said.decode().partition("\n")[0] == want


def test_engines_are_judged_as_in_python(internals: Any) -> None:
    shared = builder.ROOT / "tests" / "backends" / "engine_situations.json"
    situations = json.loads(shared.read_text())["situations"]
    assert len(situations) >= 40
    for case in situations:
        want = "|".join(" ".join(case[kind]) for kind in ("faults", "doubts"))
        assert internals.judge(json.dumps(case).encode()).decode() == want, case["name"]
