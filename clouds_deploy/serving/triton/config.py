"""Triton's `config.pbtxt` for the project's graphs.

Source: Triton's model configuration (`model_config.proto`) and the READMEs of its backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.serving.triton.pbtxt import Word

BACKENDS = {"onnxruntime": "model.onnx", "openvino": "model.onnx", "tensorrt": "model.plan"}
"""Triton's backends that run the graphs, and what the file is called there."""
DEVICES = {"auto": "KIND_AUTO", "cpu": "KIND_CPU", "gpu": "KIND_GPU"}
_TYPES = {
    "uint8": "TYPE_UINT8",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
}

Message = dict[str, Any]


@dataclass(frozen=True)
class TritonOptions:
    """How Triton is to run the graphs.

    Attributes:
        backend: A name in `BACKENDS`.
        name: The segmenter's model name; the others' begin with it.
        batch: Images per call at most.
        delay_us: Microseconds that the first image of a call may wait for others.
        instances: Copies of each graph, each with its own thread.
        device: A name in `DEVICES`.
        waiting: Requests in a model's queue; more are refused.
        seconds: How long one may wait there.
    """

    backend: str = "onnxruntime"
    name: str = "clouds"
    batch: int = 8
    delay_us: int = 2000
    instances: int = 1
    device: str = "auto"
    waiting: int = 128
    seconds: float = 30.0

    def __post_init__(self) -> None:
        """Refuses what Triton would not load.

        Raises:
            CloudsError: See the attributes.
        """
        if self.backend not in BACKENDS:
            raise CloudsError(f"there is no Triton backend `{self.backend}`", nearest(self.backend, BACKENDS))
        if self.device not in DEVICES:
            raise CloudsError(f"there is no device `{self.device}`", nearest(self.device, DEVICES))
        if self.backend == "tensorrt" and self.device == "cpu":
            raise CloudsError("TensorRT has no CPU backend", "use --triton-backend onnxruntime or openvino")
        if self.backend == "openvino" and self.device == "gpu":
            raise CloudsError("Triton's OpenVINO backend takes no NVIDIA GPU", "use onnxruntime or tensorrt")
        for field in ("batch", "instances", "waiting"):
            if getattr(self, field) < 1:
                raise CloudsError(f"{field} is {getattr(self, field)}", "it must be at least 1")
        if not self.name or not all(c.isalnum() or c in "_-" for c in self.name):
            raise CloudsError(f"`{self.name}` is not a model name", "use letters, digits, _ and -")

    @property
    def kind(self) -> Word:
        """The instances' kind; OpenVINO's knows the CPU only."""
        return Word(DEVICES["cpu" if self.backend == "openvino" else self.device])


def graph_config(
    name: str,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    options: TritonOptions,
    *,
    batched: bool,
    parameters: Mapping[str, str] | None = None,
) -> Message:
    """The configuration of a graph.

    Args:
        name: The model's name.
        inputs: What it takes.
        outputs: What it gives.
        options: How to run it.
        batched: Whether the first axis of every tensor is the same free batch; otherwise Triton hands each
            request on as it is.
        parameters: What clients are told about the model, such as its classes.
    """
    config: Message = {
        "name": name,
        "backend": options.backend,
        "default_model_filename": BACKENDS[options.backend],
        "max_batch_size": options.batch if batched else 0,
        "input": [_tensor(spec, batched) for spec in inputs],
        "output": [_tensor(spec, batched) for spec in outputs],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"kind": options.kind, "count": options.instances}],
    }
    if batched:
        config["dynamic_batching"] = {
            "preferred_batch_size": [options.batch],
            "max_queue_delay_microseconds": options.delay_us,
            "default_queue_policy": queue_policy(options),
        }
        config["model_warmup"] = [_warm_up(inputs, size) for size in sorted({1, options.batch})]
    if parameters:
        config["parameters"] = _parameters(parameters)
    return config


def _parameters(given: Mapping[str, str]) -> list[Message]:
    return [{"key": key, "value": {"string_value": value}} for key, value in given.items()]


def queue_policy(options: TritonOptions) -> Message:
    """The policy of a bounded queue: a request that waits too long, or finds it full, is rejected."""
    return {
        "timeout_action": Word("REJECT"),
        "default_timeout_microseconds": round(options.seconds * 1e6),
        "allow_timeout_override": True,
        "max_queue_size": options.waiting,
    }


def refine_config(name: str, parameters: Mapping[str, str], options: TritonOptions) -> Message:
    """The configuration of the Python model that refines label maps by calling the others.

    Args:
        name: The model's name.
        parameters: What `clouds_deploy.serving.triton.refine_model` reads.
        options: How to run it.
    """
    picture = {"data_type": Word("TYPE_UINT8"), "dims": [-1, -1]}
    return {
        "name": name,
        "backend": "python",
        "max_batch_size": 0,
        "input": [
            {"name": "image", "data_type": Word("TYPE_UINT8"), "dims": [-1, -1, 3]},
            {"name": "labels", **picture, "optional": True},
        ],
        "output": [{"name": "refined", **picture}],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [{"kind": Word("KIND_CPU"), "count": options.instances}],
        "parameters": _parameters(parameters),
    }


def _tensor(spec: TensorSpec, batched: bool) -> Message:
    return {"name": spec.name, "data_type": Word(_TYPES[spec.dtype]), "dims": _dims(spec, batched)}


def _dims(spec: TensorSpec, batched: bool) -> list[int]:
    return [-1 if size is None else size for size in spec.shape[1 if batched else 0 :]]


def _warm_up(inputs: Sequence[TensorSpec], size: int) -> Message:
    """A call of zeros before the model counts as ready: backends choose kernels at their first call."""
    return {
        "name": f"{size} images",
        "batch_size": size,
        "inputs": [
            {
                "key": spec.name,
                "value": {
                    "data_type": Word(_TYPES[spec.dtype]),
                    "dims": [axis or 1 for axis in spec.shape[1:]],
                    "zero_data": True,
                },
            }
            for spec in inputs
        ],
    }
