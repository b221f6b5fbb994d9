"""What refuses an engine before it runs; whether one runs is for a machine with a GPU."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.backends.options import Options
from clouds_deploy.backends.tensorrt import session as engine_session
from clouds_deploy.backends.tensorrt.session import EngineSession, open_engine
from clouds_deploy.bundles.bundle import KIND, Bundle
from clouds_deploy.errors import CloudsError
from tests.backends import gpu_stubs


def _bundle(path: Path, *engines: dict[str, Any]) -> Bundle:
    return Bundle(path, KIND, {}, {}, {"engines": engines}, path)


def test_an_engine_that_is_not_there_or_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CloudsError, match="holds no engine of tensorrt for its segmenter"):
        open_engine("tensorrt", "segmenter", _bundle(tmp_path), Options("cuda:0"))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(CloudsError, match="is not installed"):
        EngineSession(tmp_path / "a.engine", "tensorrt", Options("cuda:0"))


def test_preflight_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse(facts: dict[str, Any], bundle: Path, machine: Any) -> None:
        asked.append(facts["file"])
        raise CloudsError("built for SM 89", "export it again")

    monkeypatch.setattr(engine_session, "check_engine", refuse)
    facts = {
        "engine": "tensorrt",
        "version": "11.1",
        "file": "engines/encoder-tensorrt-11-this_gpu.engine",
    }
    with pytest.raises(CloudsError, match="built for SM 89"):
        open_engine("tensorrt", "encoder", _bundle(tmp_path, facts), Options("cuda:0"))
    assert asked == [facts["file"]]


def test_results_buffers_and_devices_on_stubs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """See `gpu_stubs`: addresses, shapes and order, not TensorRT."""
    runtime = gpu_stubs.install(monkeypatch)
    (tmp_path / "a.engine").write_bytes(b"an engine")
    session = EngineSession(tmp_path / "a.engine", "tensorrt", Options("cuda:1"))
    assert [str(spec.shape) for spec in session.inputs] == ["(None, 4, 6, 3)"]
    images = np.random.default_rng(0).integers(0, 256, (3, 4, 6, 3)).astype(np.uint8)
    for count in (3, 1, 2):
        found = session.run({"image": images[:count]})
        assert (found["labels"] == images[:count].argmax(-1)).all()
    runtime.cudaSetDevice(0)  # another thread's device
    call = session.stage({"image": images[:2]})
    call()
    assert {device for _, device in runtime.memory.values()} == {1}
    assert len(runtime.memory) == 2
    with pytest.raises(CloudsError, match=r"shape \[5, 4, 6, 3\] is outside"):
        session.run({"image": np.zeros((5, 4, 6, 3), np.uint8)})
    session.close()
    assert not runtime.memory
    assert not runtime.queues
    with pytest.raises(CloudsError, match="closed"):
        session.run({"image": images})


def test_devices_files_and_host_code_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_stubs.install(monkeypatch)
    engine = tmp_path / "a.engine"
    engine.write_bytes(b"an engine")
    with pytest.raises(CloudsError, match="no device cuda:2: CUDA sees 2"):
        EngineSession(engine, "tensorrt", Options("cuda:2"))
    engine.write_bytes(b"another version's")
    with pytest.raises(CloudsError, match="tensorrt refuses"):
        EngineSession(engine, "tensorrt", Options("cuda:0"))
    engine.write_bytes(b"with host code")
    with pytest.raises(CloudsError, match="tensorrt refuses"):
        EngineSession(engine, "tensorrt", Options("cuda:0"))
    EngineSession(engine, "tensorrt", Options("cuda:0"), host_code=True).close()


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
def test_the_stubs_names_are_those_of_the_real_bindings() -> None:
    """TensorRT-RTX has the API of TensorRT 10 and later; CUDA's bindings are NVIDIA's own."""
    import tensorrt_rtx as trt

    runtime = gpu_stubs.Runtime()
    stub = gpu_stubs.tensorrt(runtime)
    pairs = [(stub.Runtime, trt.Runtime), (stub.Logger, trt.Logger), (stub.TensorIOMode, trt.TensorIOMode)]
    engine = stub.Runtime(None).deserialize_cuda_engine(b"an engine")
    pairs += [
        (type(engine), trt.ICudaEngine),
        (type(engine.create_execution_context()), trt.IExecutionContext),
    ]
    for ours, theirs in pairs:
        missing = {name for name in vars(ours) if not name.startswith("_")} - set(dir(theirs))
        assert not missing, (theirs, missing)
    assert hasattr(trt.Runtime, "engine_host_code_allowed")
    cuda = pytest.importorskip("cuda.bindings.runtime")
    assert {name for name in dir(gpu_stubs.Runtime) if name.startswith("cuda")} <= set(dir(cuda))
