"""What SAM's two graphs take and give, for every runtime."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from clouds_deploy.bundles.tensors import TensorSpec

Specs = tuple[TensorSpec, ...]


@dataclass(frozen=True)
class SamSpecs:
    """Inputs and outputs of both graphs.

    Attributes:
        encoder_inputs: `image`, `size`.
        encoder_outputs: `image_embeddings`.
        decoder_inputs: `image_embeddings`, `image_index`, `point_coords`, `point_labels`.
        decoder_outputs: `masks`, `iou_predictions`.
    """

    encoder_inputs: Specs
    encoder_outputs: Specs
    decoder_inputs: Specs
    decoder_outputs: Specs


def sam_specs(sam: Any) -> SamSpecs:
    """Describe the graphs of a model.

    Args:
        sam: A `segment_anything.modeling.Sam`.
    """
    from clouds_deploy.models.sam.decoder import INDEX, LABELS, MASKS, POINTS, PROPOSALS, SCORES
    from clouds_deploy.models.sam.encoder import EMBEDDINGS, IMAGE, SIZE

    side = int(sam.image_encoder.img_size)
    height, width = sam.prompt_encoder.image_embedding_size
    embeddings = TensorSpec(
        EMBEDDINGS, "float32", (None, int(sam.prompt_encoder.embed_dim), int(height), int(width))
    )
    return SamSpecs(
        (TensorSpec(IMAGE, "uint8", (None, side, side, 3)), TensorSpec(SIZE, "int32", (None, 2))),
        (embeddings,),
        (
            embeddings,
            TensorSpec(INDEX, "int64", (None,)),
            TensorSpec(POINTS, "float32", (None, None, 2)),
            TensorSpec(LABELS, "float32", (None, None)),
        ),
        (
            TensorSpec(MASKS, "float32", (None, PROPOSALS, 4 * int(height), 4 * int(width))),
            TensorSpec(SCORES, "float32", (None, PROPOSALS)),
        ),
    )
