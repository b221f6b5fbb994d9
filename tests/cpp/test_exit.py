"""A Python process that holds the library ends well, whether it closes what it opened or not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cpp import builder

PROGRAM = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
import clouds_c
library = clouds_c.load(sys.argv[2])
segmenter = clouds_c.Segmenter(library, sys.argv[3], backend=sys.argv[4])
print(segmenter.segment(np.zeros((32, 64, 3), np.uint8)).shape)
if sys.argv[5] == "close":
    segmenter.close()
"""


@pytest.mark.parametrize("end", ["close", "leave"])
def test_a_python_process_ends_with_0(end: str, cpp_build: Path, library: Any, toy: Path) -> None:
    """Each backend in a process of its own: its threads and globals are taken down at the exit."""
    known = library.clouds_backends().decode().replace(",", " ").split()
    graphs = [name for name in known if name in ("openvino", "onnxruntime")]
    assert graphs, known
    for backend in graphs:
        binding, so = str(builder.SOURCE / "python"), str(cpp_build / "libclouds.so")
        ended = builder.run([sys.executable, "-c", PROGRAM, binding, so, str(toy), backend, end])
        assert (ended.returncode, ended.stdout) == (0, "(32, 64)\n"), f"{backend}: {ended.stderr}"
