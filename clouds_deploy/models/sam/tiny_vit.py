"""TinyViT-5M, MobileSAM's image encoder, in the layout of `mobile_sam.pt`.

Source: TinyViT (Wu et al., 2022), section 3.3 and table 8; MobileSAM (Zhang et al., 2023), section 3. The
last reduction keeps the resolution there, so that the grid is 1/16 of the image, as SAM's decoder needs it.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.libraries import library
from clouds_deploy.models.sam.attention import attend, split_heads
from clouds_deploy.models.sam.layer_norm import channels_first_norm
from clouds_deploy.models.sam.windows import Windows

WIDTHS = (64, 128, 160, 320)
DEPTHS = (2, 2, 6, 2)
HEADS = (2, 4, 5, 10)
WINDOWS = (7, 7, 14, 7)
STRIDES = (2, 2, 1)
"""Of the reductions after the first three stages."""
EXPANSION = 4
EMBEDDING = 256
CLASSES = 1000


class ConvNorm(nn.Module):
    """A convolution without bias and its batch normalisation, `c` and `bn` in the file."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves and normalises, (B, C, H, W)."""
        out: Tensor = self.bn(self.c(x))
        return out


class Stem(nn.Module):
    """Two convolutions that reduce the image to a quarter of its side."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2))

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) to (B, C, S/4, S/4)."""
        out: Tensor = self.seq(x)
        return out


class InvertedBottleneck(nn.Module):
    """MBConv: widen, convolve each channel, narrow; the activation follows the sum."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width * EXPANSION
        self.conv1 = ConvNorm(width, inner, 1)
        self.conv2 = ConvNorm(inner, inner, 3, groups=inner)
        self.conv3 = ConvNorm(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class Reduction(nn.Module):
    """Reduction between two stages: changes the width, then the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs, 1)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, outputs)
        self.conv3 = ConvNorm(outputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H/stride, W/stride)."""
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class WindowAttention(nn.Module):
    """Attention within windows; one bias for every distance of rows and columns and every head.

    Args:
        width: Channels.
        heads: Attention heads.
        grid: Tokens along the image's side.
        window: Tokens along a window's side.
    """

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.windows = Windows(grid, grid, window)
        rows = torch.arange(window, device="cpu").repeat_interleave(window)
        columns = torch.arange(window, device="cpu").repeat(window)
        gaps = (rows[:, None] - rows).abs() * window + (columns[:, None] - columns).abs()
        self.register_buffer("attention_bias_idxs", gaps.flatten(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H*W, C) to the same; the caller adds its input."""
        if self.windows.padded:
            x = F.pad(x, (0, 0, 0, 1))  # padding before the norm: normalised zeros are its bias
        qkv = self.windows.cut(self.qkv(self.norm(x)))
        count = qkv.shape[1]
        q, k, v = split_heads(qkv, self.heads).chunk(3, -1)
        gaps = cast(Tensor, self.attention_bias_idxs)
        bias = self.attention_biases.index_select(1, gaps).view(1, self.heads, count, count)
        y = attend(q, k, v, q.shape[-1] ** -0.5, bias)
        out: Tensor = self.proj(self.windows.join(y))
        return out


class FeedForward(nn.Module):
    """A normalised MLP."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width * EXPANSION)
        self.fc2 = nn.Linear(width * EXPANSION, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, C) to the same; the caller adds its input."""
        out: Tensor = self.fc2(F.gelu(self.fc1(self.norm(x))))
        return out


class TransformerBlock(nn.Module):
    """Attention, a convolution of each channel, and an MLP."""

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, grid, window)
        self.mlp = FeedForward(width)
        self.local_conv = ConvNorm(width, width, 3, groups=width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        shape = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(tokens)
        x = self.local_conv(tokens.transpose(1, 2).reshape(shape))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.mlp(tokens)
        out: Tensor = tokens.transpose(1, 2).reshape(shape)
        return out


class Stage(nn.Module):
    """Blocks at one resolution and the reduction to the next, if there is one."""

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the next stage's shape."""
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else cast(Tensor, self.downsample(x))


class TinyViT(nn.Module):
    """MobileSAM's image encoder.

    `norm_head` and `head` classified ImageNet before the distillation; they are in the file, but unused.

    Args:
        image_size: Side of the square it sees, a multiple of 16.
    """

    def __init__(self, image_size: int = 1024) -> None:
        super().__init__()
        norm = library("segment_anything.modeling.common").LayerNorm2d
        self.img_size = image_size
        self.patch_embed = Stem(WIDTHS[0])
        self.layers = nn.ModuleList()
        grid = image_size // 4
        for i, width in enumerate(WIDTHS):
            blocks: list[nn.Module] = [
                InvertedBottleneck(width) if i == 0 else TransformerBlock(width, HEADS[i], grid, WINDOWS[i])
                for _ in range(DEPTHS[i])
            ]
            last = i == len(STRIDES)
            self.layers.append(Stage(blocks, None if last else Reduction(width, WIDTHS[i + 1], STRIDES[i])))
            grid = grid if last else grid // STRIDES[i]
        self.norm_head = nn.LayerNorm(WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], CLASSES)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], EMBEDDING, 1, bias=False),
            norm(EMBEDDING),
            nn.Conv2d(EMBEDDING, EMBEDDING, 3, padding=1, bias=False),
            norm(EMBEDDING),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes normalised images.

        Args:
            pixels: (B, 3, S, S) float32, zero where there is no image.

        Returns:
            (B, 256, S/16, S/16) float32.
        """
        x = self.patch_embed(pixels)
        for layer in self.layers:
            x = layer(x)
        reduce, first, spread, second = cast(Any, self.neck)
        x = channels_first_norm(first, reduce(x))
        x = channels_first_norm(second, spread(x))
        return x.contiguous()
