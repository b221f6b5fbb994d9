"""`sam_tiny`: small versions of SAM's prompt encoder and mask decoder with a small image encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clouds_deploy.config.sam import SamTinyConfig
from clouds_deploy.models.libraries import library
from clouds_deploy.models.sam.assembly import promptable_parts


def build_sam_tiny(config: SamTinyConfig | None = None) -> Any:
    """Builds `sam_tiny` with random weights.

    Embeddings at a quarter of the image's side separate distant cars and people at 256 pixels: the
    low-resolution masks are as large as the image.

    Args:
        config: Its sizes; None means those of the shipped weights.

    Returns:
        A `segment_anything.modeling.Sam`, whose state dict has that library's key names except for the image
        encoder.
    """
    from clouds_deploy.models.sam.lite_encoder import MEAN, STD, STRIDE, LiteEncoder

    config = config or SamTinyConfig()
    size, width = config.image_size, config.prompt_width
    prompts, decoder = promptable_parts(size, STRIDE, width, config.decoder_feedforward)
    sam = library("segment_anything.modeling").Sam
    return sam(LiteEncoder(width, size), prompts, decoder, MEAN, STD).eval()


def initialize(sam: Any, gain: float = 2.0) -> None:
    """Initialises `sam_tiny` for training: the image encoder's ImageNet weights, and the attention.

    With PyTorch's initialisation all masks stay empty for some 500 steps, until the tokens have learnt where
    their points are. If queries and keys of the attention between tokens and image start with the same
    matrix, they attend there from the first step on: the product of two positions' encodings is largest where
    they are equal. Positions have twice SAM's frequencies, which distinguish twice as many positions.

    Args:
        sam: The result of `build_sam_tiny`.
        gain: Factor of that matrix, whose rows are orthonormal.

    Raises:
        CloudsError: The package with the ImageNet weights is not installed.
    """
    from clouds_deploy.models.sam.lite_encoder import load_imagenet

    load_imagenet(sam.image_encoder)
    prompts, transformer = sam.prompt_encoder, sam.mask_decoder.transformer
    prompts.pe_layer.positional_encoding_gaussian_matrix *= 2
    for table in (*prompts.point_embeddings, prompts.not_a_point_embed, prompts.no_mask_embed):
        nn.init.normal_(table.weight, std=0.2)
    layers = transformer.layers
    for attention in (
        *(layer.cross_attn_token_to_image for layer in layers),
        *(layer.cross_attn_image_to_token for layer in layers),
        transformer.final_attn_token_to_image,
    ):
        nn.init.orthogonal_(attention.q_proj.weight, gain)
        with torch.no_grad():
            attention.k_proj.weight.copy_(attention.q_proj.weight)
        nn.init.zeros_(attention.q_proj.bias)
        nn.init.zeros_(attention.k_proj.bias)
