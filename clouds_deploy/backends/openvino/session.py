"""OpenVINO."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.backends.openvino.attention import cut_attention
from clouds_deploy.backends.openvino.sums import sum_gathered_rows
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.errors import CloudsError, first_line, install


class OpenVinoSession:
    """A graph in OpenVINO, tuned for latency; see `Session`.

    Left alone, OpenVINO computes in bfloat16 on processors that can, so the precision is always set. Where
    the batch is told beforehand, the graph is compiled for it: only with fixed sizes does OpenVINO see that
    turning channels around a convolution moves nothing in memory. Another batch than the one told is run by
    a second compilation, made when it comes.

    Args:
        graph: The ONNX file.
        options: How to run.

    Raises:
        CloudsError: Not installed, the device is not there, or the graph is refused.
    """

    def __init__(self, graph: Path, options: Options) -> None:
        try:
            import openvino
        except ImportError as error:
            raise CloudsError("openvino is not installed", install("cpu")) from error
        core = openvino.Core()
        device = options.device.upper()
        if device not in core.available_devices:
            raise CloudsError(
                f"openvino has no device `{options.device}`", "known: " + ", ".join(core.available_devices)
            )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if options.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        self._graph, self._compile = graph, partial(core.compile_model, device_name=device, config=settings)
        self._core = core
        self._batch = options.batch
        self._fixed: Any = None
        model = self._read()
        self.inputs = tuple(_spec(v) for v in model.inputs)
        self.outputs = tuple(_spec(v) for v in model.outputs)
        free = [axis for spec in self.inputs for axis, size in enumerate(spec.shape) if size is None]
        if self._batch is not None and set(free) == {0} and len(free) == len(self.inputs):
            model.reshape({spec.name: [self._batch, *spec.shape[1:]] for spec in self.inputs})
            sum_gathered_rows(model)
            cut_attention(model)
            self._fixed = self._request(model)
        self._free: Any = None if self._fixed else self._request(model)
        self.backend, self.device, self.precision = "openvino", options.device, options.precision

    def _read(self) -> Any:
        try:
            return self._core.read_model(str(self._graph))
        except Exception as error:
            raise _refusal(self._graph, error) from error

    def _request(self, model: Any) -> Any:
        try:
            return self._compile(model).create_infer_request()
        except Exception as error:
            raise _refusal(self._graph, error) from error

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        request = self._for(feeds)
        request.infer(dict(feeds), share_inputs=True)
        return {spec.name: np.array(request.get_tensor(spec.name).data) for spec in self.outputs}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copies inputs into OpenVINO's own tensors; see `session.Staged.stage`."""
        import openvino

        check_feeds(self.inputs, feeds)
        request = self._for(feeds)

        def call() -> None:
            for name, tensor in own.items():
                request.set_tensor(name, tensor)
            request.infer()

        own = {name: openvino.Tensor(np.array(array)) for name, array in feeds.items()}
        return call

    def _for(self, feeds: Mapping[str, Array]) -> Any:
        """The compiled graph that takes these."""
        request = self._fixed
        if request is None or any(len(array) != self._batch for array in feeds.values()):
            if self._free is None:
                self._free = self._request(self._read())
            request = self._free
        return request

    def close(self) -> None:
        """Releases the graph."""
        self._fixed = self._free = None


def _refusal(graph: Path, error: Exception) -> CloudsError:
    """The error with its cause: OpenVINO's messages begin with lines of its own source files."""
    lines = (line.strip() for line in str(error).splitlines())
    cause = " ".join(line for line in lines if line and not line.startswith(("Exception from ", "Check '")))
    return CloudsError(
        f"openvino refuses {graph}: {cause[:400] or first_line(error)}", "export the run again"
    )


def _spec(port: Any) -> TensorSpec:
    sizes = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()).name, sizes)
