"""Attention as each reader wants it: fused for PyTorch, spelled out for an exported graph."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, bias: Tensor | None = None) -> Tensor:
    """Attend with heads apart, and put the heads together again.

    In an exported graph the fused call would become two multiplications with the scale's root, one of all
    keys, and fixed strides; three plain operations are what the engines' own fusions look for.

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
            v = F.pad(v, (0, k.shape[-1] - width))  # the fused kernels want one width
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)[..., :width]
    return y.transpose(1, 2).reshape(-1, q.shape[2], heads * width)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Take the heads apart: (B, N, heads * D) to (B, heads, N, D)."""
    return x.reshape(-1, x.shape[1], heads, x.shape[-1] // heads).transpose(1, 2)
