"""TensorRT and TensorRT-RTX: an engine of a bundle, loaded on the GPU that it was built for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape

from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.backends.tensorrt.build import graph_of
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.backends.tensorrt.memory import Buffer, Gpu
from clouds_deploy.backends.tensorrt.preflight import check_engine, judge
from clouds_deploy.bundles.bundle import Bundle
from clouds_deploy.bundles.proofs import state
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.config.precision import Precision
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError


class EngineSession:
    """An engine behind a graph's contract; see `Session`.

    Args:
        file: The engine.
        engine: A name in `ENGINES`.
        options: How to run; the device is `cuda:N`.
        host_code: Whether the engine holds code for the host that may be loaded, as a version-compatible one
            does. That code is as trustworthy as the bundle.

    Raises:
        CloudsError: TensorRT is not installed, or refuses the file.
    """

    def __init__(self, file: Path, engine: str, options: Options, *, host_code: bool = False) -> None:
        try:
            trt: Any = importlib.import_module(ENGINES[engine])
        except ImportError as error:
            raise CloudsError(f"{engine} is not installed", f"pip install {engine}") from error
        if options.precision != "fp32":
            raise CloudsError(
                f"an engine runs in the precision it was built in, not `{options.precision}`",
                "export the run again, with --fp16",
            )
        self._trt = trt
        self._gpu = Gpu(options.device)
        self._buffers: dict[str, Buffer] = {}
        self._runtime: Any = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        if host_code:
            self._runtime.engine_host_code_allowed = True
        self._engine: Any = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise CloudsError(f"{engine} refuses {file}", "export it again on this machine")
        self._context: Any = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(self._spec(name) for name in names if given[name])
        self.outputs = tuple(self._spec(name) for name in names if not given[name])
        self.file, self.backend = file, engine
        self.device = options.device
        self.precision: Precision = "fp32"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`.

        Raises:
            CloudsError: Also where a shape is outside of what the engine was built for.
        """
        self._bind(feeds)
        self._execute()
        return {spec.name: self._gpu.read(self._buffers[spec.name]) for spec in self.outputs}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copies inputs to the GPU; see `session.Staged.stage`. A `run` in between takes its place."""
        self._bind(feeds)
        self._gpu.wait()

        def call() -> None:
            self._execute()
            self._gpu.wait()

        return call

    def _bind(self, feeds: Mapping[str, Array]) -> None:
        """Copies inputs to the device and gives the engine all buffers' addresses."""
        if self._context is None:
            raise CloudsError("the session is closed", "open it again")
        check_feeds(self.inputs, feeds)
        self._gpu.use()
        arrays = {spec.name: np.ascontiguousarray(feeds[spec.name]) for spec in self.inputs}
        for name, array in arrays.items():
            if not self._context.set_input_shape(name, tuple(array.shape)):
                raise CloudsError(
                    f"input `{name}` of shape {list(array.shape)} is outside of what the engine takes",
                    "export it again with another --batch",
                )
            self._gpu.write(array, self._buffer(name, array.shape, array.dtype.name))
        for spec in self.outputs:
            self._buffer(spec.name, tuple(self._context.get_tensor_shape(spec.name)), spec.dtype)
        for name, buffer in self._buffers.items():
            self._context.set_tensor_address(name, buffer.address)
        self._gpu.wait()  # the arrays may go

    def _buffer(self, name: str, shape: tuple[int, ...], dtype: str) -> Buffer:
        """The buffer of an input or output, a new one where the shape is another than before."""
        old = self._buffers.get(name)
        if old is None or (old.shape, old.dtype) != (tuple(shape), dtype):
            if old is not None:
                self._gpu.free(old)
                del self._buffers[name]
            self._buffers[name] = self._gpu.empty(tuple(shape), dtype)
        return self._buffers[name]

    def _execute(self) -> None:
        self._gpu.use()
        if not self._context.execute_async_v3(self._gpu.stream):
            raise CloudsError(
                f"{self.backend} could not run the engine", "is there enough memory on the GPU? see its log"
            )

    def close(self) -> None:
        """Releases the engine and its memory."""
        if self._context is not None:
            self._gpu.use()
            for buffer in self._buffers.values():
                self._gpu.free(buffer)
            self._buffers.clear()
            self._context = self._engine = self._runtime = None
            self._gpu.close()

    def _spec(self, name: str) -> TensorSpec:
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        sizes = tuple(None if d < 0 else int(d) for d in self._engine.get_tensor_shape(name))
        return TensorSpec(name, kind, sizes)


def open_engine(engine: str, graph: str, bundle: Bundle, options: Options) -> EngineSession:
    """Loads a bundle's engine of a graph, after `check_engine`.

    Args:
        engine: A name in `ENGINES`.
        graph: A name in the bundle's `graphs`.
        bundle: The bundle; says so, once, where no self-test has run the engine on this GPU.
        options: See `EngineSession`.

    Raises:
        CloudsError: The bundle holds no such engine; see also `check_engine` and `EngineSession`.
    """
    found = [facts for facts in bundle.engines if facts["engine"] == engine and graph_of(facts) == graph]
    if not found:
        raise CloudsError(
            f"{bundle.origin} holds no engine of {engine} for its {graph}",
            f"clouds-deploy engine build {bundle.origin} --engine {engine}",
        )
    machine = Machine.here(int(options.device.partition(":")[2] or 0))
    fitting = [facts for facts in found if not judge(facts, machine)[0]]
    facts = (fitting or found)[0]
    check_engine(facts, bundle.path, machine)
    known = state(bundle.origin, facts, machine.gpu)
    _tell(f"{Path(facts['file']).name}: {known}", str(bundle.origin), engine)
    return EngineSession(
        bundle.path / facts["file"], engine, options, host_code=bool(facts.get("version_compatible"))
    )


@cache
def _tell(text: str, bundle: str, engine: str) -> None:
    """Says once what is known of an engine that is not proven here."""
    if " proven on " not in text:
        warn(escape(f"{text} (clouds-deploy selftest {bundle} --backend {engine})"))
