"""The pixel decoder: attention across the coarse feature maps, then the sum with the finest one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config.model import PixelDecoderConfig
from clouds_deploy.models.backbones import Features
from clouds_deploy.models.clouds.deformable_attention import DeformableAttention, Shapes
from clouds_deploy.models.clouds.positions import cell_centers, sine_positions

GROUPS = 32
LEVELS = 3


def _projection(channels: int, width: int) -> nn.Module:
    convolution = nn.Conv2d(channels, width, 1)
    nn.init.xavier_uniform_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return nn.Sequential(convolution, nn.GroupNorm(GROUPS, width))


def _convolution(channels: int, width: int, size: int, *, bias: bool = False) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, width, size, padding=size // 2, bias=bias)
    nn.init.kaiming_uniform_(convolution.weight, a=1)
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution


class EncoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with residual and post-norm."""

    def __init__(self, width: int, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(width, config.heads, LEVELS, config.points)
        self.attention_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, config.feedforward)
        self.contract = nn.Linear(config.feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, tokens: Tensor, positions: Tensor, centers: Tensor, shapes: Shapes) -> Tensor:
        """Refines (B, N, width) tokens of all levels; arguments as in `PixelDecoder.encode`."""
        tokens = self.attention_norm(
            tokens + self.attention(tokens + positions, tokens, centers, shapes).to(tokens.dtype)
        )
        return self.feedforward_norm(tokens + self.contract(F.relu(self.expand(tokens))))  # type: ignore[no-any-return]


class PixelDecoder(nn.Module):
    """MSDeformAttn pixel decoder (docs/explanation/method.md 2.2; Mask2Former, Cheng et al. 2022).

    Args:
        channels: Channels of res2..res5.
        width: Channels of everything inside and of both outputs.
        config: See `PixelDecoderConfig`.
    """

    def __init__(self, channels: Sequence[int], width: int, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.width = width
        self.project = nn.ModuleList(_projection(channels[stage], width) for stage in (3, 2, 1))
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(EncoderLayer(width, config) for _ in range(config.layers))
        self.lateral = nn.Sequential(_convolution(channels[0], width, 1), nn.GroupNorm(GROUPS, width))
        self.output = nn.Sequential(_convolution(width, width, 3), nn.GroupNorm(GROUPS, width), nn.ReLU())
        self.mask_features = _convolution(width, width, 1, bias=True)

    def encode(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Runs the deformable encoder.

        Args:
            maps: (B, width, h, w) of res5, res4, res3: coarse to fine.

        Returns:
            The same maps, refined, in the same order.
        """
        shapes = [(int(m.shape[2]), int(m.shape[3])) for m in maps]
        device = maps[0].device
        tokens = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        positions = torch.cat(
            [
                sine_positions(h, w, self.width, device) + self.level_embedding[level]
                for level, (h, w) in enumerate(shapes)
            ]
        )
        centers = torch.cat([cell_centers(h, w, device) for h, w in shapes])
        for layer in self.layers:
            tokens = layer(tokens, positions, centers, shapes)
        parts = tokens.split([h * w for h, w in shapes], dim=1)
        return [
            part.transpose(1, 2).reshape(-1, self.width, h, w)
            for part, (h, w) in zip(parts, shapes, strict=True)
        ]

    def forward(self, features: Features) -> tuple[Tensor, list[Tensor]]:
        """Per-pixel features of an image.

        Args:
            features: res2..res5 as from `Backbone.forward`.

        Returns:
            mask features (B, width, H/4, W/4), and the maps (B, width, ...) at strides 32, 16, 8.
        """
        maps = self.encode([project(f) for project, f in zip(self.project, features[:0:-1], strict=True)])
        finest = self.lateral(features[0])
        up = F.interpolate(maps[-1], size=finest.shape[-2:], mode="bilinear", align_corners=False)
        return self.mask_features(self.output(finest + up)), maps
