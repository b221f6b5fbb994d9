"""The image encoder of `sam_tiny`: EfficientNet-Lite0 and a neck that joins its levels at stride 4.

A small version of SAM's own ViT learnt far too slowly on synthetic scenes, without pretrained weights
(docs/explanation/decisions/0005-sam-tiny-encoder.md). This network starts from ImageNet weights
and is cheaper.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.backbones.vit import ChannelNorm
from clouds_deploy.models.libraries import library

STRIDE = 4
"""Pixels between the cells of an embedding."""
MEAN, STD = [127.0] * 3, [128.0] * 3
"""Normalisation of EfficientNet-Lite0's weights, for RGB in 0..255."""


class LiteEncoder(nn.Module):
    """EfficientNet-Lite0 under a small feature pyramid.

    Batch normalisation always uses its stored statistics: batches of synthetic scenes are too small and
    too unlike photos to replace those of ImageNet.

    Args:
        width: Channels of the embedding.
        image_size: Side of the square it sees, a multiple of 32.

    Attributes:
        img_size: The side, under the name that `segment_anything` expects.
    """

    def __init__(self, width: int, image_size: int) -> None:
        super().__init__()
        self.img_size = image_size
        self.trunk = library("timm").create_model(
            "tf_efficientnet_lite0", features_only=True, out_indices=(1, 2, 3, 4)
        )
        channels = self.trunk.feature_info.channels()
        self.lateral = nn.ModuleList(nn.Conv2d(count, width, 1) for count in channels)
        self.mix = nn.ModuleList(
            nn.Sequential(ChannelNorm(width, eps=1e-6), nn.Conv2d(width, width, 3, padding=1), nn.GELU())
            for _ in range(3)
        )
        self.neck = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), ChannelNorm(width, eps=1e-6))

    def train(self, mode: bool = True) -> LiteEncoder:
        """Sets the mode; batch normalisation stays in evaluation mode."""
        super().train(mode)
        for module in self.trunk.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def freeze(self, stages: int) -> None:
        """Freezes the first stages of the trunk; the stem belongs to the first."""
        if stages:
            for module in (self.trunk.conv_stem, self.trunk.bn1, *self.trunk.blocks[:stages]):
                module.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """Embeds images.

        Args:
            image: (B, 3, S, S) float, normalised by `MEAN` and `STD`, padding zero.

        Returns:
            (B, C, S/4, S/4).
        """
        coarse, *finer = (
            lateral(level)
            for lateral, level in zip(reversed(self.lateral), reversed(self.trunk(image)), strict=True)
        )
        x = coarse
        for mix, level in zip(self.mix, finer, strict=True):
            x = mix(level + _double(x))
        out: Tensor = self.neck(x)
        return out


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def load_imagenet(encoder: Any) -> str:
    """Loads the packaged ImageNet weights into a `LiteEncoder`, and returns where they are from.

    Raises:
        CloudsError: The package with the weights is not installed.
    """
    from clouds_deploy.config.model import BackboneConfig
    from clouds_deploy.models.backbones.lite0 import lite0_backbone

    backbone = lite0_backbone(BackboneConfig())
    with torch.no_grad():
        encoder.trunk.load_state_dict(backbone.trunk.state_dict())
    return backbone.weights
