"""Attention: fused in PyTorch, spelled out in exported graphs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Attention with separate heads, which are joined afterwards.

    In an exported graph the fused call would become two multiplications by the root of the scale, one of all
    keys, and fixed strides; the fusions of TensorRT and others expect three plain operations.

    Args:
        q: (B, heads, N, D).
        k: (B, heads, M, D).
        v: (B, heads, M, E), E at most D.
        scale: Factor of the scores.
        bias: Added to the scores; (B or 1, heads, N, M).

    Returns:
        (B, N, heads * E).
    """
    heads, width = v.shape[1], v.shape[-1]
    if torch.compiler.is_exporting():
        scores = (q if scale == 1.0 else q * scale) @ k.transpose(-2, -1)
        y = (scores if bias is None else scores + bias).softmax(-1) @ v
    else:
        if k.shape[-1] != width:
            v = F.pad(v, (0, k.shape[-1] - width))  # the fused kernels need one width
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)[..., :width]
    return y.transpose(1, 2).reshape(-1, q.shape[2], heads * width)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Separates the heads: (B, N, heads * D) to (B, heads, N, D)."""
    return x.reshape(-1, x.shape[1], heads, x.shape[-1] // heads).transpose(1, 2)


def attend_across(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention with joined heads, between a few tokens and a whole image.

    With heads of a few channels, as in SAM's decoder, matrix products of single heads are slow, and so
    is a softmax over rows of a few tokens. So the heads of the short side become blocks of one matrix,
    which multiplies for all heads at once, and the softmax always runs along the image.

    Args:
        q: (P, N, heads * D), or (1, N, heads * D), shared by all.
        k: (P, M, heads * D), or (1, M, heads * D).
        v: As k.
        heads: Number of heads.

    Returns:
        (P, N, heads * D).
    """
    width = q.shape[-1] // heads
    blocks = torch.eye(heads, dtype=q.dtype, device=q.device).repeat_interleave(width, 1)[:, None]
    if q.shape[1] <= k.shape[1]:
        scores = _spread(q, blocks) * width**-0.5 @ k.transpose(1, 2)
        seen = (scores.softmax(-1) @ v).unflatten(1, (heads, q.shape[1]))
        joined: Tensor = (seen * blocks).sum(1)
        return joined
    scores = _spread(k, blocks) * width**-0.5 @ q.transpose(1, 2)
    shares = scores.unflatten(1, (heads, k.shape[1])).softmax(2).flatten(1, 2)
    out: Tensor = shares.transpose(1, 2) @ _spread(v, blocks)
    return out


def _spread(x: Tensor, blocks: Tensor) -> Tensor:
    """Rows for each head, zero in the others' channels: (P, N, C) to (P, heads * N, C)."""
    return (x[:, None] * blocks).flatten(1, 2)
