"""Segment Anything's prompt encoder and mask decoder with any image encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import nn

from clouds_deploy.models.libraries import library

WIDTH = 256
"""Channels of the official embeddings and prompts."""
PATCH = 16
WINDOW = 14
FULL_SIZE = 1024


@dataclass(frozen=True)
class VitStructure:
    """The sizes of an official image encoder (SAM, appendix A; ViT-B, ViT-L, ViT-H).

    Attributes:
        width: Channels.
        depth: Blocks.
        heads: Attention heads.
        global_blocks: Blocks that attend to the whole image, counted from 0.
    """

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, ...]


PIXEL_MEAN = [123.675, 116.28, 103.53]
PIXEL_STD = [58.395, 57.12, 57.375]
"""Of ImageNet, for RGB of 0..255."""

VIT = {
    "vit_b": VitStructure(768, 12, 12, (2, 5, 8, 11)),
    "vit_l": VitStructure(1024, 24, 16, (5, 11, 17, 23)),
    "vit_h": VitStructure(1280, 32, 16, (7, 15, 23, 31)),
}


def build_vit_sam(structure: VitStructure, image_size: int = FULL_SIZE) -> Any:
    """Builds an official SAM, untrained.

    Args:
        structure: Its image encoder.
        image_size: Side of the square it sees, a multiple of 16; the official weights need 1024.

    Returns:
        A `segment_anything.modeling.Sam` in evaluation mode.
    """
    encoder = library("segment_anything.modeling").ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH,
        embed_dim=structure.width,
        depth=structure.depth,
        num_heads=structure.heads,
        mlp_ratio=4,
        out_chans=WIDTH,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=WINDOW,
        global_attn_indexes=structure.global_blocks,
    )
    return assemble(encoder, image_size)


def build_mobile_sam(image_size: int = FULL_SIZE) -> Any:
    """Builds MobileSAM, untrained; see `build_vit_sam`.

    Source: MobileSAM (Zhang et al., 2023), section 3: TinyViT for the image encoder, the rest as in SAM.
    """
    from clouds_deploy.models.sam.tiny_vit import TinyViT

    return assemble(TinyViT(image_size), image_size)


def assemble(encoder: nn.Module, image_size: int) -> Any:
    """An image encoder with the official prompt encoder and mask decoder, untrained.

    Args:
        encoder: From images of side S to embeddings of 256 channels and side S/16.
        image_size: S.

    Returns:
        A `segment_anything.modeling.Sam` in evaluation mode.
    """
    prompts, decoder = promptable_parts(image_size, PATCH, WIDTH, 2048)
    sam = library("segment_anything.modeling").Sam
    return sam(encoder, prompts, decoder, PIXEL_MEAN, PIXEL_STD).eval()


def promptable_parts(image_size: int, stride: int, width: int, feedforward: int) -> tuple[Any, Any]:
    """The prompt encoder and the mask decoder of a SAM, untrained.

    Args:
        image_size: Side of the square that the image encoder sees.
        stride: Pixels of it an embedding's side.
        width: Channels of embeddings and prompts.
        feedforward: Channels inside the decoder's perceptrons.
    """
    modeling = library("segment_anything.modeling")
    grid = image_size // stride
    prompts = modeling.PromptEncoder(
        embed_dim=width,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    decoder = modeling.MaskDecoder(
        num_multimask_outputs=3,
        transformer=modeling.TwoWayTransformer(
            depth=2, embedding_dim=width, mlp_dim=feedforward, num_heads=8
        ),
        transformer_dim=width,
        iou_head_depth=3,
        iou_head_hidden_dim=width,
    )
    return prompts, decoder
