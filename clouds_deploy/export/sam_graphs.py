"""A SAM as two ONNX graphs: the encoder with a free batch, the decoder with free prompts and points too."""

from __future__ import annotations

import copy
from typing import Any

from clouds_deploy.export.trace import Exported, trace
from clouds_deploy.models.sam.vit_encoder import AttentionForm

LARGEST_BATCH = 64
LARGEST_PROMPTS = 4096
LARGEST_POINTS = 64


def encoder_to_onnx(sam: Any, *, attention: AttentionForm = "bias") -> Exported:
    """Export the image encoder.

    Args:
        sam: A `segment_anything.modeling.Sam`; not changed.
        attention: How relative positions enter the ViTs' attention; the other encoders have none.

    Returns:
        `image` (B, S, S, 3) uint8, `size` (B, 2) int32 -> `image_embeddings` (B, C, h, w) float32.

    Raises:
        CloudsError: The exporter failed.
    """
    import torch

    from clouds_deploy.models.sam.encoder import SamEncoder
    from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, SIZE

    encoder = SamEncoder(_quiet(sam), window_form=attention, global_form=attention)
    side = encoder.side
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8), torch.full((2, 2), side, dtype=torch.int32)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return trace(encoder, example, [IMAGE, SIZE], [EMBEDDINGS], {IMAGE: {0: batch}, SIZE: {0: batch}})


def decoder_to_onnx(sam: Any) -> Exported:
    """Export the prompt encoder and the mask decoder.

    Args:
        sam: A `segment_anything.modeling.Sam`; not changed.

    Returns:
        `image_embeddings` (B, C, h, w), `image_index` (P,) int64, `point_coords` (P, N, 2), `point_labels`
        (P, N) -> `masks` (P, 3, 4h, 4w), `iou_predictions` (P, 3), all float32 but the index.

    Raises:
        CloudsError: The exporter failed.
    """
    import torch

    from clouds_deploy.models.sam.decoder import SamDecoder
    from clouds_deploy.models.sam.names import EMBEDDINGS, INDEX, LABELS, MASKS, POINTS, SCORES

    prompter = sam.prompt_encoder
    shape = int(prompter.embed_dim), *(int(d) for d in prompter.image_embedding_size)
    images, prompts, points = (
        torch.export.Dim(name, min=1, max=largest)
        for name, largest in (
            ("images", LARGEST_BATCH),
            ("prompts", LARGEST_PROMPTS),
            ("points", LARGEST_POINTS),
        )
    )
    example = torch.zeros(2, *shape), torch.tensor([0, 1, 1]), torch.zeros(3, 4, 2), torch.ones(3, 4)
    free = {
        EMBEDDINGS: {0: images},
        INDEX: {0: prompts},
        POINTS: {0: prompts, 1: points},
        LABELS: {0: prompts, 1: points},
    }
    return trace(SamDecoder(_quiet(sam)), example, list(free), [MASKS, SCORES], free)


def _quiet(sam: Any) -> Any:
    own = copy.deepcopy(sam).eval().requires_grad_(False)
    for module in own.modules():
        if hasattr(module, "inplace"):
            vars(module)["inplace"] = False  # same numbers; the exporter takes long to undo in-place calls
    return own
