"""What SAM's two graphs take and give, on every backend."""

from __future__ import annotations

from typing import Any

from clouds_deploy.bundles.bundle import DECODER, ENCODER
from clouds_deploy.bundles.tensors import GraphSpec, TensorSpec
from clouds_deploy.models.sam.names import (
    EMBEDDINGS,
    IMAGE,
    INDEX,
    LABELS,
    MASKS,
    POINTS,
    PROPOSALS,
    SCORES,
    SIZE,
)


def sam_specs(sam: Any) -> dict[str, GraphSpec]:
    """Describes both graphs of a model, `ENCODER` and `DECODER`.

    Args:
        sam: A `segment_anything.modeling.Sam`.
    """
    side = int(sam.image_encoder.img_size)
    height, width = (int(size) for size in sam.prompt_encoder.image_embedding_size)
    embeddings = TensorSpec(EMBEDDINGS, "float32", (None, int(sam.prompt_encoder.embed_dim), height, width))
    return {
        ENCODER: GraphSpec(
            (TensorSpec(IMAGE, "uint8", (None, side, side, 3)), TensorSpec(SIZE, "int32", (None, 2))),
            (embeddings,),
        ),
        DECODER: GraphSpec(
            (
                embeddings,
                TensorSpec(INDEX, "int64", (None,)),
                TensorSpec(POINTS, "float32", (None, None, 2)),
                TensorSpec(LABELS, "float32", (None, None)),
            ),
            (
                TensorSpec(MASKS, "float32", (None, PROPOSALS, 4 * height, 4 * width)),
                TensorSpec(SCORES, "float32", (None, PROPOSALS)),
            ),
        ),
    }
