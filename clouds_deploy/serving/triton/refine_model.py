"""The model that runs inside Triton's Python backend: refinement, by calling the other models.

Images, prompts and rules are the same code as everywhere; only the graphs are run by Triton, through its
business logic scripting.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.config.precision import Precision
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.letterbox import fit
from clouds_deploy.inference.sam import Picture, Sam
from clouds_deploy.labels import CITYSCAPES, label_set
from clouds_deploy.refinement.refiner import Refiner


class TritonSession:
    """A model of the same Triton server, as a `Session`.

    Args:
        name: The model's name.
        inputs: What it takes.
        outputs: What it gives.
    """

    backend = "triton"
    device = "as its config says"
    precision: Precision = "fp32"

    def __init__(self, name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        self.name, self.inputs, self.outputs = name, inputs, outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`."""
        import triton_python_backend_utils as pb_utils

        memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
        request = pb_utils.InferenceRequest(
            model_name=self.name,
            requested_output_names=[spec.name for spec in self.outputs],
            inputs=[pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in feeds.items()],
            preferred_memory=memory,
        )
        response = request.exec()
        if response.has_error():
            raise CloudsError(f"`{self.name}` failed: {response.error().message()}", "see Triton's log")
        return {
            spec.name: pb_utils.get_output_tensor_by_name(response, spec.name).as_numpy()
            for spec in self.outputs
        }

    def close(self) -> None:
        """Nothing to close: Triton keeps its models."""


class RefineModel:
    """Triton's `TritonPythonModel`: `image`, and perhaps `labels`, to `refined`."""

    def initialize(self, args: Mapping[str, Any]) -> None:
        """Reads what `export --triton` wrote into the config.

        Args:
            args: Triton's; `model_config` is the config as JSON.
        """
        parameters = json.loads(args["model_config"])["parameters"]
        given = {name: value["string_value"] for name, value in parameters.items()}
        side = int(given["side"])
        embeddings = (None, *(int(size) for size in given["embeddings"].split(",")[1:]))
        self.size = int(given["height"]), int(given["width"])
        red, green, blue = (int(value) for value in given["mean_color"].split(","))
        self.mean_color = red, green, blue
        self.segmenter = TritonSession(
            given["segmenter"],
            (TensorSpec("image", "uint8", (None, *self.size, 3)),),
            (TensorSpec(given["labels"], "uint8", (None, *self.size)),),
        )
        classes = CITYSCAPES
        if "label_set" in given:
            classes = label_set(json.loads(given["label_set"]), "the model's config")
        encoder = TritonSession(
            given["sam_encoder"],
            (TensorSpec("image", "uint8", (None, side, side, 3)), TensorSpec("size", "int32", (None, 2))),
            (TensorSpec("image_embeddings", "float32", embeddings),),
        )
        decoder = TritonSession(
            given["sam_decoder"],
            (),
            (
                TensorSpec("masks", "float32", (None, None, None, None)),
                TensorSpec("iou_predictions", "float32", (None, None)),
            ),
        )
        self.refiner = Refiner(Sam(encoder, decoder, given["sam"], image_batch=1), RefineConfig(), classes)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answers each request, with labels or an error."""
        import triton_python_backend_utils as pb_utils

        answers = []
        for request in requests:
            try:
                image = pb_utils.get_input_tensor_by_name(request, "image").as_numpy()
                given = pb_utils.get_input_tensor_by_name(request, "labels")
                labels = self.label(image) if given is None else given.as_numpy()
                (refined,) = self.refiner.refine([image], [labels])
                tensor = pb_utils.Tensor("refined", np.ascontiguousarray(refined.labels))
                answers.append(pb_utils.InferenceResponse(output_tensors=[tensor]))
            except CloudsError as error:
                answers.append(
                    pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(str(error)))
                )
        return answers

    def label(self, image: Picture) -> Picture:
        """Labels of an image of any size, by the segmenter.

        Args:
            image: (H, W, 3) uint8 RGB.
        """
        fitted, box = fit(image, *self.size, self.mean_color)
        outputs = self.segmenter.run({"image": fitted[None]})
        return box.restore(outputs[self.segmenter.outputs[0].name][0])
