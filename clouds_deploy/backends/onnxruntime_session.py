"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.config.precision import Precision
from clouds_deploy.errors import CloudsError, first_line, install
from clouds_deploy.telemetry import load_onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}


class NoCuda(CloudsError):
    """ONNX Runtime was asked for a GPU and fell back to the CPU, which it does without an error."""


def _onnxruntime() -> Any:
    try:
        return load_onnxruntime()
    except ImportError as error:
        raise CloudsError("onnxruntime is not installed", install("cpu")) from error


def lists_cuda() -> bool:
    """Whether the installed package is built for CUDA; a session shows whether it finds CUDA's libraries."""
    return CUDA in _onnxruntime().get_available_providers()


class OnnxRuntimeSession:
    """A graph in ONNX Runtime; see `Session`.

    Args:
        graph: The ONNX file.
        options: How to run; the device is `cpu` or `cuda:N`.

    Raises:
        CloudsError: Not installed, or the graph is refused.
        NoCuda: The GPU that was asked for is not what it would run on.
    """

    def __init__(self, graph: Path, options: Options) -> None:
        onnxruntime = _onnxruntime()
        if options.precision != "fp32":
            raise CloudsError(
                f"onnxruntime runs a graph in the precision it is written in, not `{options.precision}`",
                "use the openvino backend for bf16",
            )
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        kind, _, number = options.device.partition(":")
        wanted, own = (CPU, {}) if kind == "cpu" else (CUDA, {"device_id": number or "0"})
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(graph), sess_options=settings, providers=[wanted], provider_options=[own]
            )
        except Exception as error:
            raise CloudsError(
                f"onnxruntime refuses {graph}: {first_line(error)}", "export the run again"
            ) from error
        running = self._session.get_providers()[0]
        if running != wanted:
            raise NoCuda(
                f"onnxruntime was asked for {wanted} but runs on {running}",
                "install onnxruntime-gpu with its CUDA libraries, or use --device cpu",
            )
        self.backend, self.device = "onnxruntime", options.device
        self.precision: Precision = "fp32"
        self.inputs = tuple(_spec(v) for v in self._session.get_inputs())
        self.outputs = tuple(_spec(v) for v in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        arrays = self._session.run(None, dict(feeds))
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Binds inputs and outputs on the device; see `session.Staged.stage`."""
        check_feeds(self.inputs, feeds)
        kind, _, number = self.device.partition(":")
        binding = self._session.io_binding()
        for name, array in feeds.items():
            value = _onnxruntime().OrtValue.ortvalue_from_numpy(array, kind, int(number or 0))
            binding.bind_ortvalue_input(name, value)
        for spec in self.outputs:
            binding.bind_output(spec.name, kind, int(number or 0))

        def call() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call

    def close(self) -> None:
        """Releases the graph."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(
        value.name,
        _DTYPES.get(value.type, value.type),
        tuple(d if isinstance(d, int) else None for d in value.shape),
    )
