from __future__ import annotations

import ctypes
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cpp import builder
from tests.cpp.toy import write_toy
from tests.cpp.toy_sam import write_toy_sam


@pytest.fixture(scope="session")
def cpp_build() -> Path:
    """The library, its tools and the tests' programs."""
    return builder.build("release")


@pytest.fixture(scope="session")
def binding() -> Any:
    """The module engines/cpp/python/clouds_c.py."""
    spec = importlib.util.spec_from_file_location("clouds_c", builder.SOURCE / "python" / "clouds_c.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clouds_c"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def library(cpp_build: Path, binding: Any) -> Any:
    return binding.load(cpp_build / "libclouds.so")


@pytest.fixture(scope="session")
def internals(cpp_build: Path) -> ctypes.CDLL:
    """What tests/internals.cpp exposes."""
    inside = ctypes.CDLL(str(cpp_build / "clouds_internals.so"))
    for name in (
        "check_directory", "open_segmenter_bundle", "read_vocabulary", "check_engine", "check_weights",
        "add_engine", "engine_shapes", "go_through", "judge", "open_sam_bundle",
    ):  # fmt: skip
        getattr(inside, name).restype = ctypes.c_char_p
    return inside


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose graph is a few nodes; read only."""
    return write_toy(tmp_path_factory.mktemp("toy") / "bundle")


@pytest.fixture(scope="session")
def toy_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for a SAM."""
    return write_toy_sam(tmp_path_factory.mktemp("toy_sam") / "bundle")
