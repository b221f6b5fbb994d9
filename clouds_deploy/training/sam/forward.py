"""SAM's modules run so that a batch of images, each with several prompts, can be trained at once."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def encode(sam: Any, images: Tensor, sizes: Tensor) -> Tensor:
    """Embed a batch of images.

    Relative positions enter as extra channels of query and key, so that the fused attention needs no bias.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        images: (B, 3, S, S) uint8 RGB.
        sizes: (B, 2) valid rows and columns; the rest is zero after normalisation, as SAM has it.

    Returns:
        (B, C, h, w) float32.
    """
    side = images.shape[-1]
    rows = torch.arange(side, device=images.device)
    valid = (rows[None, :, None] < sizes[:, :1, None]) & (rows[None, None, :] < sizes[:, 1:, None])
    encoder = sam.image_encoder
    x = encoder.patch_embed((images.float() - sam.pixel_mean) / sam.pixel_std * valid[:, None])
    x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = _block(block, x)
    out: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return out


def _block(block: Any, x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    window = block.window_size or height
    if height % window or width % window:
        out: Tensor = block(x)
        return out
    y = block.norm1(x).view(batch, height // window, window, width // window, window, channels)
    y = y.transpose(2, 3).reshape(-1, window, window, channels)
    y = _attention(block.attn, y)
    y = y.view(batch, height // window, width // window, window, window, channels).transpose(2, 3)
    x = x + y.reshape(x.shape)
    return x + block.mlp(block.norm2(x))  # type: ignore[no-any-return]


def _attention(attention: Any, x: Tensor) -> Tensor:
    batch, height, width, channels = x.shape
    heads = attention.num_heads
    q, k, v = attention.qkv(x).view(batch, height * width, 3, heads, -1).permute(2, 0, 3, 1, 4)
    grid = q.reshape(batch, heads, height, width, -1)
    gap_rows = _table(attention.rel_pos_h, height)
    gap_columns = _table(attention.rel_pos_w, width)
    by_row = torch.einsum("bnhwc,hkc->bnhwk", grid, gap_rows).reshape(batch, heads, height * width, height)
    by_column = torch.einsum("bnhwc,wkc->bnhwk", grid, gap_columns).reshape(
        batch, heads, height * width, width
    )
    eye_rows = torch.eye(height, device=x.device, dtype=q.dtype).repeat_interleave(width, 0)
    eye_columns = torch.eye(width, device=x.device, dtype=q.dtype).repeat(height, 1)
    places = torch.cat((eye_rows, eye_columns), 1).expand(batch, heads, -1, -1)
    q = torch.cat((q * attention.scale, by_row, by_column), -1)
    k = torch.cat((k, places), -1)
    pad = q.shape[-1] - v.shape[-1]
    y = F.scaled_dot_product_attention(q, k, F.pad(v, (0, pad)), scale=1.0)[..., : v.shape[-1]]
    out: Tensor = attention.proj(y.transpose(1, 2).reshape(batch, height, width, channels))
    return out


def _table(relative: Tensor, side: int) -> Tensor:
    """Give the embedding of every pair of rows (or columns), (side, side, C)."""
    steps = torch.arange(side, device=relative.device)
    return relative[steps[:, None] - steps[None, :] + side - 1]


def decode(
    sam: Any, embeddings: Tensor, points: Tensor, labels: Tensor, previous: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Propose masks for prompts of several images.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        embeddings: (P, C, h, w), each prompt's image.
        points: (P, N, 2), x and y in pixels of the square.
        labels: (P, N): 1 foreground, 0 background, 2 and 3 a box's corners, -1 padding.
        previous: (P, 1, 4h, 4w) logits of the mask to correct; None at the first prompt.

    Returns:
        mask logits (P, 4, 4h, 4w), the single mask first, and predicted IoU (P, 4).
    """
    prompts, decoder = sam.prompt_encoder, sam.mask_decoder
    encoded = prompts.pe_layer.forward_with_coords(points + 0.5, prompts.input_image_size)
    kinds = torch.cat([prompts.not_a_point_embed.weight, *(e.weight for e in prompts.point_embeddings)])
    sparse = encoded * (labels >= 0)[..., None] + kinds[labels.long() + 1]
    dense = (
        prompts.no_mask_embed.weight.reshape(1, -1, 1, 1)
        if previous is None
        else prompts.mask_downscaling(previous)
    )
    own = torch.cat((decoder.iou_token.weight, decoder.mask_tokens.weight))
    tokens = torch.cat((own.expand(len(points), -1, -1), sparse), 1)
    source = embeddings + dense
    states, source = decoder.transformer(source, prompts.get_dense_pe().expand_as(source), tokens)
    source = source.transpose(1, 2).reshape(embeddings.shape)
    upscaled = decoder.output_upscaling(source)
    mixes = [mlp(states[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("pmc,pchw->pmhw", torch.stack(mixes, 1), upscaled)
    return masks, decoder.iou_prediction_head(states[:, 0])
