"""The session of TensorRT's family, against a stand-in for its library: no GPU is needed, none is proven."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clouds_deploy.backends.options import Options
from clouds_deploy.backends.tensorrt import session as engine_session
from clouds_deploy.backends.tensorrt.session import EngineSession, open_engine
from clouds_deploy.errors import CloudsError


class Context:
    """Adds one to bytes, wherever the addresses point: `y = x + 1`, batch 1 to 4."""

    def __init__(self) -> None:
        self.shape: tuple[int, ...] = ()
        self.addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "x"
        self.shape = shape
        return shape[0] <= 4

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        count = int(np.prod(self.shape))
        source = (ctypes.c_uint8 * count).from_address(self.addresses["x"])
        target = (ctypes.c_uint8 * count).from_address(self.addresses["y"])
        for i in range(count):
            target[i] = source[i] + 1
        return True


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    names = ["y", "x"]
    engine = SimpleNamespace(
        num_io_tensors=2,
        create_execution_context=Context,
        get_tensor_name=lambda i: names[i],
        get_tensor_mode=lambda name: "in" if name == "x" else "out",
        get_tensor_dtype=lambda name: "u8",
        get_tensor_shape=lambda name: (-1, 3),
    )

    class Runtime:
        def __init__(self, logger: Any) -> None: ...

        def deserialize_cuda_engine(self, data: bytes) -> Any:
            return engine if data == b"engine" else None

    class Logger:
        ERROR = 1

        def __init__(self, level: int) -> None: ...

    fake = SimpleNamespace(
        Runtime=Runtime, Logger=Logger, TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda kind: np.uint8
    )
    monkeypatch.setitem(sys.modules, "tensorrt", fake)
    return fake


@pytest.fixture
def session(library: Any, tmp_path: Path) -> EngineSession:
    (tmp_path / "a.engine").write_bytes(b"engine")
    opened = EngineSession(tmp_path / "a.engine", "tensorrt", Options())
    assert opened.device == "cuda"
    opened.device = "cpu"  # where the stand-in runs
    return opened


def test_runs_with_names_types_and_shapes(session: EngineSession) -> None:
    assert [str(s) for s in (*session.inputs, *session.outputs)] == ["x uint8 (any, 3)", "y uint8 (any, 3)"]
    for rows in (1, 4):
        x = np.arange(3 * rows, dtype=np.uint8).reshape(rows, 3)
        out = session.run({"x": x})
        assert np.array_equal(out["y"], x + 1)


def test_faults(session: EngineSession, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="outside of what the engine takes"):
        session.run({"x": np.zeros((5, 3), np.uint8)})
    with pytest.raises(CloudsError, match="is float32, not uint8"):
        session.run({"x": np.zeros((1, 3), np.float32)})
    session.close()
    with pytest.raises(CloudsError, match="closed"):
        session.run({"x": np.zeros((1, 3), np.uint8)})
    (tmp_path / "b.engine").write_bytes(b"other")
    with pytest.raises(CloudsError, match="refuses"):
        EngineSession(tmp_path / "b.engine", "tensorrt", Options())
    with pytest.raises(CloudsError, match="in the precision it was built in"):
        EngineSession(tmp_path / "a.engine", "tensorrt", Options(precision="bf16"))


def test_an_engine_that_is_not_there_or_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CloudsError, match="holds no engine of tensorrt for its segmenter"):
        open_engine("tensorrt", "segmenter", [], tmp_path, Options())
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(CloudsError, match="is not installed"):
        EngineSession(tmp_path / "a.engine", "tensorrt", Options())


def test_preflight_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(facts: dict[str, Any], bundle: Path, machine: Any) -> None:
        asked.append(facts["file"])
        raise CloudsError("built for SM 89", "export it again")

    monkeypatch.setattr(engine_session, "check_engine", refuse)
    facts = {"engine": "tensorrt", "file": "engines/encoder-tensorrt-11-this_gpu.engine"}
    with pytest.raises(CloudsError, match="built for SM 89"):
        open_engine("tensorrt", "encoder", [facts], tmp_path, Options())
    assert asked == [facts["file"]]
