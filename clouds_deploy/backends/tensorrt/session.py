"""TensorRT and TensorRT-RTX: an engine of a bundle, loaded on the GPU that it was built for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.backends import torch_session
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.backends.tensorrt.preflight import check_engine
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.config.precision import Precision
from clouds_deploy.errors import CloudsError


class EngineSession:
    """An engine behind a graph's contract; see `Session`. PyTorch allocates its buffers.

    Args:
        file: The engine.
        engine: A name in `ENGINES`.
        options: How to run; the device is `cuda:N`.

    Raises:
        CloudsError: TensorRT is not installed, or refuses the file.
    """

    def __init__(self, file: Path, engine: str, options: Options) -> None:
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
        self._runtime: Any = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._engine: Any = self._runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:
            raise CloudsError(f"{engine} refuses {file}", "export it again on this machine")
        self._context: Any = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        given = {name: self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        self.inputs = tuple(self._spec(name) for name in names if given[name])
        self.outputs = tuple(self._spec(name) for name in names if not given[name])
        self.backend = engine
        self.device = options.device
        self.precision: Precision = "fp32"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`.

        Raises:
            CloudsError: Also where a shape is outside of what the engine was built for.
        """
        buffers = self._bind(feeds)
        self._execute()
        return {spec.name: buffers[spec.name].cpu().numpy() for spec in self.outputs}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copies inputs to the GPU; see `session.Staged.stage`."""
        buffers = self._bind(feeds)

        def call() -> None:
            for name, buffer in buffers.items():  # a `run` may have come between
                self._context.set_tensor_address(name, buffer.data_ptr())
            self._execute()

        return call

    def _bind(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        """Copies inputs to the device and gives the engine all buffers' addresses."""
        if self._context is None:
            raise CloudsError("the session is closed", "open it again")
        check_feeds(self.inputs, feeds)
        buffers = {}
        for spec in self.inputs:
            array = np.ascontiguousarray(feeds[spec.name])
            if not self._context.set_input_shape(spec.name, tuple(array.shape)):
                raise CloudsError(
                    f"input `{spec.name}` of shape {list(array.shape)} is outside of what the engine takes",
                    "export it again with another --batch",
                )
            buffers[spec.name] = torch_session.to_device(array, self.device)
        for spec in self.outputs:
            shape = tuple(self._context.get_tensor_shape(spec.name))
            buffers[spec.name] = torch_session.empty(shape, spec.dtype, self.device)
        for name, buffer in buffers.items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        return buffers

    def _execute(self) -> None:
        if not torch_session.on_own_stream(self.device, self._context.execute_async_v3):
            raise CloudsError(
                f"{self.backend} could not run the engine", "is there enough memory on the GPU? see its log"
            )

    def close(self) -> None:
        """Releases the engine."""
        self._context = self._engine = self._runtime = None

    def _spec(self, name: str) -> TensorSpec:
        kind = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name))).name
        sizes = tuple(None if d < 0 else int(d) for d in self._engine.get_tensor_shape(name))
        return TensorSpec(name, kind, sizes)


def open_engine(
    engine: str, graph: str, built: Sequence[Mapping[str, Any]], bundle: Path, options: Options
) -> EngineSession:
    """Loads a bundle's engine of a graph, after `check_engine`.

    Args:
        engine: A name in `ENGINES`.
        graph: The graph's file without its ending, such as `segmenter`.
        built: The bundle's `engines`.
        bundle: Its directory.
        options: See `EngineSession`.

    Raises:
        CloudsError: The bundle holds no such engine; see also `check_engine` and `EngineSession`.
    """
    found = [
        facts
        for facts in built
        if facts["engine"] == engine and Path(facts["file"]).name.startswith(f"{graph}-")
    ]
    if not found:
        raise CloudsError(
            f"{bundle} holds no engine of {engine} for its {graph}",
            f"export it again with --engine {engine}",
        )
    check_engine(found[0], bundle, Machine.here())
    return EngineSession(bundle / found[0]["file"], engine, options)
