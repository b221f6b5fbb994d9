"""Every command and every program in docs/guides/cpp.md runs, in a checkout of nothing but what they need."""

from __future__ import annotations

import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.labels import NAMES
from tests import documented
from tests.cli.conftest import run
from tests.conftest import write_run
from tests.cpp import builder

PAGE = builder.ROOT / "docs" / "guides" / "cpp.md"
TUTORIAL = "tutorials/int8-cpp.md"
blocks = partial(documented.blocks, "guides/cpp.md")


@pytest.fixture(scope="module")
def place(cpp_build: Path, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the page takes it for granted; the library is built already, so that building is quick."""
    place = tmp_path_factory.mktemp("documentation")
    (place / "engines").mkdir()
    (place / "engines" / "cpp").symlink_to(builder.SOURCE)
    (place / "build").mkdir()
    (place / "bundles").mkdir()
    (place / "bundles" / "a").symlink_to(toy)
    (place / "folder").mkdir()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3)).astype(np.uint8))
    image.save(place / "photo.png")
    image.save(place / "folder" / "other.png")
    (place / "consumer").mkdir()
    (place / "consumer" / "CMakeLists.txt").write_text(blocks("cmake")[0])
    (place / "consumer" / "main.cpp").write_text(blocks("cpp")[0])
    return place


def shell(command: str, place: Path) -> str:
    return builder.succeed(["sh", "-ec", command], cwd=place, env=builder.python_environment())


def test_the_commands_run(place: Path, cpp_build: Path) -> None:
    build, use, consume = blocks("sh")
    pip, configure, compile_, install = build.strip().splitlines()
    assert pip == 'pip install ".[cpu]" nlohmann-json'  # is how this environment came to be
    assert configure.startswith("cmake -S engines/cpp -B build/cpp ")
    shell(configure.replace("-B build/cpp", "-B build/configured"), place)
    assert "OPENVINO" in (place / "build/configured/CMakeCache.txt").read_text()
    assert compile_ == "cmake --build build/cpp --parallel 2"
    (place / "build" / "cpp").symlink_to(cpp_build)  # compiled with the same commands, see builder.py
    shell(compile_, place)
    shell(install, place)
    assert (place / "build/clouds/include/clouds/segmenter.hpp").is_file()
    for file in (*place.glob("build/clouds/**/*.hpp"), *place.glob("build/clouds/**/*.cmake")):
        assert "nlohmann" not in file.read_text()
    if not (cpp_build / "clouds_segment").is_file():
        use = use.splitlines()[0]
    shell(use, place)
    if (cpp_build / "clouds_segment").is_file():
        assert {p.name for p in (place / "labelled" / "labels").iterdir()} == {"photo.png", "other.png"}
    assert shell(consume, place).splitlines()[-1] in NAMES
    moved = place / "moved"
    shutil.move(place / "build" / "clouds", moved)  # the installed tools find their library where they are
    assert "100.0000 %" in shell("moved/bin/clouds_selftest bundles/a", place)


def test_what_the_page_names_is_there() -> None:
    text = PAGE.read_text()
    for path in re.findall(r"`(engines/cpp/[\w/.]+)`", text):
        assert (builder.ROOT / path).exists(), path
    for header in re.findall(r"`(clouds/[\w.]+)`", text):
        assert (builder.SOURCE / "include" / header).is_file(), header
    files = ("CMakeLists.txt", "cmake/backends.cmake", "cmake/json.cmake")
    options = "".join((builder.SOURCE / file).read_text() for file in files)
    for name in re.findall(r"`(?:CLOUDS_)?(OPENVINO|ONNXRUNTIME|TENSORRT|TENSORRT_RTX|[A-Z_]+_ROOT)`", text):
        assert name in options
    assert "test-cpp:" in (builder.ROOT / "Makefile").read_text()


def test_the_tutorial_builds_as_the_guide_does() -> None:
    """So its commands of CMake are run by the test above."""
    typed = documented.commands(TUTORIAL)
    guide = "".join(blocks("sh")).splitlines()
    built = [command for command in typed if command.startswith("cmake ")]
    assert len(built) == 3
    assert set(built) <= set(guide)


@pytest.mark.slow
def test_the_tutorial(cpp_build: Path, small_recipe: Any, small_segmenter: Any, tmp_path: Path) -> None:
    """On a model of random decoders, which decides by a hair; so its limits are wide."""
    if not (cpp_build / "clouds_segment").is_file():
        pytest.skip("the sample was not built: no libpng and libjpeg here")
    loose = small_recipe.export.int8.model_copy(
        update={
            "label_agreement": 0.0,
            "max_score_error": 1.0,
            "relative_error": 1.0,
            "cosine": 0.5,
            "miou_drop": 100.0,
        }
    )
    export = small_recipe.export.model_copy(update={"int8": loose})
    (tmp_path / "runs").mkdir()
    write_run(
        tmp_path / "runs" / "first", small_recipe.model_copy(update={"export": export}), small_segmenter
    )
    (tmp_path / "build").mkdir()
    builder.succeed(["cmake", "--install", str(cpp_build), "--prefix", str(tmp_path / "build" / "clouds")])
    for command in documented.commands(TUTORIAL):
        if command.startswith("clouds-deploy "):
            given = documented.changed(documented.words(command), count="8")
            done = run(*given, cwd=tmp_path)
            assert done.returncode == 0, (command, done.stderr)
        elif not command.startswith("cmake "):
            shell(command, tmp_path)  # `diff` is the last: C++ and Python made the same files
    assert len(list((tmp_path / "labelled_cpp" / "labels").iterdir())) == 8
