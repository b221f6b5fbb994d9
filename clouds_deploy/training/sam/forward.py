"""SAM's forward pass for a batch of images with several prompts each, as training needs it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.libraries import library
from clouds_deploy.models.sam.attention import attend, split_heads


def fuse_attention(sam: Any) -> None:
    """Replaces the mask decoder's attention by PyTorch's fused attention: the same numbers, less memory.

    `segment_anything` stores every score of every head. Its modules and their weights stay.

    Args:
        sam: A `segment_anything.modeling.Sam`.
    """
    attention = library("segment_anything.modeling.transformer").Attention
    for module in sam.mask_decoder.transformer.modules():
        if isinstance(module, attention):
            module.forward = MethodType(_attend, module)


def fuse_norms(encoder: Any) -> None:
    """Folds each normalisation of `sam_tiny`'s trunk into the convolution before it: the same numbers.

    Valid for batch normalisation with stored statistics, as in `LiteEncoder`. Modules and weights stay, and
    both are trained.

    Args:
        encoder: A `LiteEncoder`.
    """
    layers = library("timm.layers")
    for parent in encoder.trunk.modules():
        for first, second in pairwise(parent.children()):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                _fuse(first, second, layers.conv2d_same if isinstance(first, layers.Conv2dSame) else F.conv2d)


def _fuse(conv: Any, norm: Any, convolve: Callable[..., Tensor]) -> None:
    def convolve_and_normalise(x: Tensor) -> Tensor:
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        weight, bias = conv.weight * scale[:, None, None, None], norm.bias - norm.running_mean * scale
        return convolve(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    conv.forward = convolve_and_normalise
    norm.forward = lambda x: norm.act(norm.drop(x))


def _attend(self: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    heads = self.num_heads
    q, k, v = (split_heads(p(x), heads) for p, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
    out: Tensor = self.out_proj(attend(q, k, v, q.shape[-1] ** -0.5))
    return out


def encode(sam: Any, images: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Embeds a batch of images.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        images: (B, 3, H, W) uint8 RGB.
        sizes: (B, 2) valid rows and columns; the rest is zero after normalisation, as in SAM. None means that
            all is valid.

    Returns:
        (B, C, h, w) float32.
    """
    pixels = (images.float() - sam.pixel_mean) / sam.pixel_std
    if sizes is not None:
        places = torch.arange(images.shape[-1], device=images.device)
        valid = (places[None, :, None] < sizes[:, :1, None]) & (places[None, None, :] < sizes[:, 1:, None])
        pixels = pixels * valid[:, None]
    out: Tensor = sam.image_encoder(pixels.contiguous(memory_format=torch.channels_last))  # faster
    return out


def decode(
    sam: Any,
    embeddings: Tensor,
    points: Tensor,
    labels: Tensor,
    previous: Tensor | None,
    offsets: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Predicts masks for prompts of several images.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        embeddings: (P, C, h, w), each prompt's image, of the model's size or a crop of it.
        points: (P, N, 2), x and y in pixels of the square.
        labels: (P, N): 1 foreground, 0 background, 2 and 3 a box's corners, -1 padding.
        previous: (P, 1, 4h, 4w) logits of the mask to correct; None at the first prompt.
        offsets: (P, 2), x and y in pixels of each crop in the image that the model would see; None is 0.

    Returns:
        mask logits (P, 4, 4h, 4w), the single mask first, and predicted IoU (P, 4).
    """
    prompts, decoder = sam.prompt_encoder, sam.mask_decoder
    height, width = embeddings.shape[-2:]
    stride = prompts.input_image_size[0] // prompts.image_embedding_size[0]
    offsets = points.new_zeros(len(points), 2) if offsets is None else offsets.to(points)
    encoded = prompts.pe_layer.forward_with_coords(points + 0.5 + offsets[:, None], prompts.input_image_size)
    rows, columns = (stride * (torch.arange(n, device=points.device) + 0.5) for n in (height, width))
    places = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1).flatten(0, 1)
    positions = prompts.pe_layer.forward_with_coords(places + offsets[:, None], prompts.input_image_size)
    positions = positions.transpose(1, 2).reshape(embeddings.shape)
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
    states, source = decoder.transformer(source, positions, tokens)
    source = source.transpose(1, 2).reshape(embeddings.shape)
    upscaled = decoder.output_upscaling(source)
    mixes = [mlp(states[:, 1 + i]) for i, mlp in enumerate(decoder.output_hypernetworks_mlps)]
    masks = torch.einsum("pmc,pchw->pmhw", torch.stack(mixes, 1), upscaled)
    return masks, decoder.iou_prediction_head(states[:, 0])


def chosen(logits: Tensor, ratings: Tensor, single: bool) -> Tensor:
    """Mask that a user gets, of those that `decode` predicts.

    Args:
        logits: (P, 4, L, L), the single mask first.
        ratings: (P, 4) predicted IoU.
        single: Whether to take the single mask, as SAM does for several points, or the best rated of three.

    Returns:
        (P, 1, L, L) logits.
    """
    if single:
        return logits[:, :1]
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, 1 + ratings[:, 1:].argmax(1)][:, None]
