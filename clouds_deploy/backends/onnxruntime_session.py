"""ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clouds_deploy.backends.options import INSTALL, Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.errors import CloudsError, first_line, nearest

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_DTYPES = {
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
}


class OnnxRuntimeSession:
    """A graph in ONNX Runtime; see `Session`.

    Args:
        graph: The ONNX file.
        options: How to run.

    Raises:
        CloudsError: Not installed, the graph is refused, or the device that was asked for is not the one
            it runs on: ONNX Runtime falls back to the CPU without an error.
    """

    def __init__(self, graph: Path, options: Options) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise CloudsError("onnxruntime is not installed", INSTALL) from error
        if options.device not in PROVIDERS:
            hint = nearest(options.device, PROVIDERS)
            raise CloudsError(f"onnxruntime has no device `{options.device}`", hint)
        if options.precision != "f32":
            raise CloudsError(
                f"onnxruntime runs a graph in the precision it is written in, not `{options.precision}`",
                "use the openvino backend for bf16",
            )
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        if options.threads is not None:
            settings.intra_op_num_threads = options.threads
        wanted = PROVIDERS[options.device]
        try:
            self._session: Any = onnxruntime.InferenceSession(
                str(graph), sess_options=settings, providers=[wanted]
            )
        except Exception as error:
            raise CloudsError(
                f"onnxruntime refuses {graph}: {first_line(error)}", "export the run again"
            ) from error
        running = self._session.get_providers()
        if running[0] != wanted:
            raise CloudsError(
                f"onnxruntime was asked for {wanted} but runs on {running[0]}",
                "install onnxruntime-gpu with its CUDA libraries, or use device `cpu`",
            )
        self.backend, self.device = "onnxruntime", running[0]
        self.inputs = tuple(_spec(v) for v in self._session.get_inputs())
        self.outputs = tuple(_spec(v) for v in self._session.get_outputs())

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        arrays = self._session.run(None, dict(feeds))
        return {spec.name: array for spec, array in zip(self.outputs, arrays, strict=True)}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Bind inputs and outputs on the device; see `session.Staged.stage`."""
        import onnxruntime

        check_feeds(self.inputs, feeds)
        device = next(name for name, provider in PROVIDERS.items() if provider == self.device)
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))
        for spec in self.outputs:
            binding.bind_output(spec.name, device)

        def call() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        return call

    def close(self) -> None:
        """Let go of the graph."""
        self._session = None


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(
        value.name,
        _DTYPES.get(value.type, value.type),
        tuple(d if isinstance(d, int) else None for d in value.shape),
    )
