"""SAM's two-way transformer between prompt tokens and image; shared parts are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.sam.attention import attend_across


class TwoWay(nn.Module):
    """A `TwoWayTransformer` on prompts of several images.

    Until the image attends to the tokens in the first layer, the image's part is the same for all prompts
    of an image: its keys, values and queries are projected per image and gathered per prompt.

    Source: SAM (Kirillov et al., 2023), appendix A "Lightweight mask decoder".

    Args:
        transformer: A `segment_anything.modeling.TwoWayTransformer`; its weights are shared, not copied.
    """

    def __init__(self, transformer: Any) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(
        self, images: Tensor, places: Tensor, index: Tensor, prompts: Tensor, wanted: int
    ) -> tuple[Tensor, Tensor]:
        """Attention between tokens and image in both directions.

        Args:
            images: (B, M, C) image embeddings, a row for each cell.
            places: (1, M, C), the encoding of the cells' positions.
            index: (P,) int64, each prompt's image.
            prompts: (P, T, C) tokens.
            wanted: Number of first tokens that are read afterwards; the last attention skips the others.

        Returns:
            The first tokens (P, wanted, C), and the image after each prompt (P, M, C).
        """
        tokens, pixels = prompts, images
        for i, layer in enumerate(self.transformer.layers):
            to_image, to_tokens = layer.cross_attn_token_to_image, layer.cross_attn_image_to_token
            keys, queries, values = _project(
                pixels, places, (to_image.k_proj, to_tokens.q_proj, to_image.v_proj)
            )
            if i == 0:
                keys, values, queries, pixels = _gather((keys, values, queries, pixels), index)
            tokens = layer.norm1(_self_attention(layer, tokens, prompts))
            seen = _attend(to_image, to_image.q_proj(tokens + prompts), keys, values)
            tokens = layer.norm2(tokens + seen)
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            keys, values = to_tokens.k_proj(tokens + prompts), to_tokens.v_proj(tokens)
            pixels = layer.norm4(pixels + _attend(to_tokens, queries, keys, values))
        final = self.transformer.final_attn_token_to_image
        tokens, prompts = tokens[:, :wanted], prompts[:, :wanted]
        keys, values = _project(pixels, places, (final.k_proj, final.v_proj))
        tokens = tokens + _attend(final, final.q_proj(tokens + prompts), keys, values)
        return self.transformer.norm_final_attn(tokens), pixels


def _project(pixels: Tensor, places: Tensor, layers: Sequence[Any]) -> tuple[Tensor, ...]:
    """Projections of an image, with positions for all layers but the last, which projects values.

    In PyTorch it is one product, and a separate one of the positions, which all images share.
    """
    if torch.compiler.is_exporting():
        placed = pixels + places
        return (*(layer(placed) for layer in layers[:-1]), layers[-1](pixels))
    weight = torch.cat([layer.weight for layer in layers])
    widths = [layer.weight.shape[0] for layer in layers]
    placed = sum(widths[:-1])
    both = F.linear(pixels, weight, torch.cat([layer.bias for layer in layers]))
    both[..., :placed] += F.linear(places, weight[:placed])
    parts: tuple[Tensor, ...] = both.split(widths, -1)
    return parts


def _gather(images: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    """Rows of each prompt's image; a single image is shared by all."""
    if not torch.compiler.is_exporting() and all(len(rows) == 1 for rows in images):
        return list(images)
    return [rows.index_select(0, index) for rows in images]


def _self_attention(layer: Any, tokens: Tensor, prompts: Tensor) -> Tensor:
    attention = layer.self_attn
    placed = tokens if layer.skip_first_layer_pe else tokens + prompts
    seen = _attend(attention, attention.q_proj(placed), attention.k_proj(placed), attention.v_proj(tokens))
    return seen if layer.skip_first_layer_pe else tokens + seen


def _attend(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention (P, N, C) with projected inputs (P, N, D) and twice (P, M, D)."""
    out: Tensor = attention.out_proj(attend_across(q, k, v, attention.num_heads))
    return out
