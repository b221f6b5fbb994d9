"""OpenVINO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.errors import CloudsError
from clouds_deploy.runtime.options import INSTALL, Options
from clouds_deploy.runtime.session import Array, TensorSpec, check_feeds


class OpenVinoSession:
    """A graph in OpenVINO, tuned for latency; see `Session`.

    Left alone, OpenVINO computes in bfloat16 on processors that can, so the precision is always set.

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
            raise CloudsError("openvino is not installed", INSTALL) from error
        core = openvino.Core()
        device = options.device.upper()
        if device not in core.available_devices:
            raise CloudsError(
                f"openvino has no device `{options.device}`", "known: " + ", ".join(core.available_devices)
            )
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": options.precision,
            "PERFORMANCE_HINT": "LATENCY",
        }
        if options.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = options.threads
        try:
            self._model: Any = core.compile_model(core.read_model(str(graph)), device, settings)
        except Exception as error:
            raise CloudsError(
                f"openvino refuses {graph}: {str(error).splitlines()[0]}", "export the run again"
            ) from error
        self._request: Any = self._model.create_infer_request()
        self.backend = "openvino" if options.precision == "f32" else "openvino-bf16"
        self.device = f"{device} {options.precision}"
        self.inputs = tuple(_spec(v) for v in self._model.inputs)
        self.outputs = tuple(_spec(v) for v in self._model.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        self._request.infer(dict(feeds), share_inputs=True)
        return {spec.name: np.array(self._request.get_tensor(spec.name).data) for spec in self.outputs}

    def close(self) -> None:
        """Let go of the graph."""
        self._request = None
        self._model = None


def _spec(port: Any) -> TensorSpec:
    sizes = tuple(d.get_length() if d.is_static else None for d in port.get_partial_shape())
    return TensorSpec(port.get_any_name(), np.dtype(port.get_element_type().to_dtype()).name, sizes)
