"""C++ cuts attention as Python does."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from clouds_deploy.backends.openvino.attention import cut_attention
from tests.openvino_models import SIDE, attention, operations, outcome


def test_it_is_cut_as_in_python(internals: Any, tmp_path: Path) -> None:
    part = 4 * SIDE**4 // 2
    model, given, made = attention(), tmp_path / "given.xml", tmp_path / "made.xml"
    openvino.save_model(model, str(given), False)

    def cut(large: int, given: Path = given) -> int:
        count: int = internals.cut_attention(
            str(given).encode(), str(made).encode(), ctypes.c_size_t(large), ctypes.c_size_t(part)
        )
        return count

    assert cut(1 << 26) == 0
    assert operations(openvino.Core().read_model(str(made))) == operations(model)
    assert cut(0) == 1
    found = openvino.Core().read_model(str(made))
    expected = outcome(model)
    assert cut_attention(model, large=0, part=part) == 1
    assert operations(found) == operations(model)
    assert np.abs(outcome(found) - expected).max() <= 1e-6
    shared = tmp_path / "shared.xml"
    openvino.save_model(attention(key_heads=1), str(shared), False)
    assert cut(0, shared) == 0
