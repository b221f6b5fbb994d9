"""Segment Anything's own modules, put together at a small size."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from clouds_deploy.sam_recipe import SamTinyConfig
from clouds_deploy.torchvision_compat import ensure_torchvision

PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]
"""Of ImageNet, for RGB of 0..255, as in SAM."""


def build_sam_tiny(config: SamTinyConfig | None = None) -> Any:
    """Build `sam_tiny` with random weights: a ViT on small patches, SAM's prompt encoder and mask decoder.

    A patch of 8 instead of 16 pixels keeps masks of distant cars and people apart at 256 pixels: the low
    resolution masks are half the image's side.

    Args:
        config: Its sizes; None means those that the shipped weights have.

    Returns:
        A `segment_anything.modeling.Sam`, whose state dict has that library's key names.
    """
    ensure_torchvision()
    from segment_anything.modeling import (
        ImageEncoderViT,
        MaskDecoder,
        PromptEncoder,
        Sam,
        TwoWayTransformer,
    )

    config = config or SamTinyConfig()
    side = config.image_size // config.patch
    encoder = ImageEncoderViT(
        img_size=config.image_size,
        patch_size=config.patch,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.heads,
        mlp_ratio=4,
        out_chans=config.prompt_width,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=config.window,
        global_attn_indexes=config.global_blocks,
    )
    prompts = PromptEncoder(
        embed_dim=config.prompt_width,
        image_embedding_size=(side, side),
        input_image_size=(config.image_size, config.image_size),
        mask_in_chans=16,
    )
    decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=config.prompt_width, mlp_dim=config.decoder_feedforward, num_heads=8
        ),
        transformer_dim=config.prompt_width,
        iou_head_depth=3,
        iou_head_hidden_dim=config.prompt_width,
    )
    sam = Sam(
        image_encoder=encoder,
        prompt_encoder=prompts,
        mask_decoder=decoder,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
    return sam.eval()
