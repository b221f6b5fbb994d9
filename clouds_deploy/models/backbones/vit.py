"""Plain vision transformers: DINOv2, DINOv3, EVA02 and their like, with a simple feature pyramid.

A plain ViT has one map. The pyramid turns its last one into four by transposed convolution, identity and
pooling (Li et al. 2022, "Exploring Plain Vision Transformer Backbones for Object Detection", section 3).

The token grid is H/16 x W/16 whatever the patch: for patch 14 the image is resized internally by 14/16, so
the maps have the strides the decoders expect, and a 512x1024 image gives 32x64 tokens.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones.backbone import Backbone, Features
from clouds_deploy.models.backbones.positions import resample
from clouds_deploy.models.backbones.weights import load_file_or_random

STRIDE = 16
_NEEDED = ("patch_embed", "blocks", "norm")


def is_plain_vit(module: Any) -> bool:
    """Whether a timm module is a plain ViT: patches, blocks of one width, a norm."""
    single = all(hasattr(module, name) for name in (*_NEEDED, "cls_token"))
    return single and hasattr(module.patch_embed, "proj") and hasattr(module.patch_embed, "grid_size")


class PlainVit(nn.Module):
    """A timm ViT (`VisionTransformer` or `Eva`) on any grid, without its classifier.

    timm's dynamic sizes resize position embeddings by an operator that TensorRT lacks, and a CLIP from
    open_clip is built for one size; so the embedding is done here, the blocks are timm's. On the grid of the
    training the result is that of timm's `forward_features`.

    Args:
        source: The timm module; its parts are shared.
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        if getattr(source, "rope_mixed", False):
            raise CloudsError(
                "ViTs with rotary embeddings mixed per layer are not supported", "choose another"
            )
        self.patch_embed = source.patch_embed
        self.cls_token: nn.Parameter | None = source.cls_token
        self.reg_token: nn.Parameter | None = getattr(source, "reg_token", None)
        self.pos_embed: nn.Parameter | None = source.pos_embed
        self.norm_pre = getattr(source, "norm_pre", None) or nn.Identity()
        self.blocks = source.blocks
        self.norm = source.norm
        self.rope: Any = _any_size(getattr(source, "rope", None))
        self.grid: tuple[int, int] = tuple(source.patch_embed.grid_size)
        self.patch: int = source.patch_embed.patch_size[0]
        self.width: int = source.embed_dim
        self.prefix = sum(t.shape[1] for t in (self.cls_token, self.reg_token) if t is not None)

    def forward(self, image: Tensor) -> Tensor:
        """Tokens after the last norm.

        Args:
            image: (B, 3, h, w), sides multiples of the patch.

        Returns:
            (B, prefix + h/patch * w/patch, width), class and register tokens first.
        """
        grid = self.patch_embed.proj(image)
        height, width = int(grid.shape[2]), int(grid.shape[3])
        x = self._embed(self.patch_embed.norm(grid.flatten(2).transpose(1, 2)), (height, width))
        x = self.norm_pre(x)
        if self.rope is None:
            for block in self.blocks:
                x = block(x)
        else:
            rotation = self.rope.get_embed(shape=[height, width])
            for block in self.blocks:
                x = block(x, rope=rotation)
        return self.norm(x)  # type: ignore[no-any-return]

    def _embed(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Patches (B, N, width) with positions, after class and register tokens."""
        before = [t.expand(x.shape[0], -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.pos_embed is None:
            return _concatenate(before, x)
        positions = resample(self.pos_embed, self.grid, size)
        if self.pos_embed.shape[1] == self.grid[0] * self.grid[1]:  # only patches have positions
            return _concatenate(before, x + positions)
        return _concatenate(before, x) + positions


def _concatenate(before: list[Tensor], x: Tensor) -> Tensor:
    return torch.cat([*before, x], dim=1) if before else x


def _any_size(rope: Any) -> Any:
    """Rotary embeddings for any grid; timm fixes some to the training grid."""
    if rope is None or getattr(rope, "feat_shape", None) is None:
        return rope
    known = inspect.signature(type(rope)).parameters
    settings = {name: getattr(rope, name) for name in known if hasattr(rope, name)}
    return type(rope)(**{**settings, "feat_shape": None})


def vit_taps(trunk: PlainVit, image: Tensor) -> tuple[Tensor]:
    """Last map of a plain ViT.

    Args:
        trunk: The ViT.
        image: (B, 3, H, W) normalised, sides multiples of 16.

    Returns:
        One map (B, width, H/16, W/16).
    """
    height, width = int(image.shape[2]) // STRIDE, int(image.shape[3]) // STRIDE
    if trunk.patch != STRIDE:
        size = (height * trunk.patch, width * trunk.patch)
        image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    tokens = trunk(image)[:, trunk.prefix :]
    return (tokens.transpose(1, 2).reshape(-1, trunk.width, height, width),)


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a map (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalises every pixel's channels."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """Maps at strides 4, 8, 16 and 32 from one at stride 16.

    Args:
        width: Channels of that map; a multiple of 4. The pyramid has width/4, width/2, width, width.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.channels = (width // 4, width // 2, width, width)
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(width, width // 2, 2, stride=2),
            ChannelNorm(width // 2),
            nn.GELU(),
            nn.ConvTranspose2d(width // 2, width // 4, 2, stride=2),
        )
        self.up2 = nn.ConvTranspose2d(width, width // 2, 2, stride=2)

    def forward(self, x: Tensor) -> Features:
        """Four maps of one (B, width, H/16, W/16)."""
        return self.up4(x), self.up2(x), x, F.max_pool2d(x, 2)


def plain_vit(
    source_module: Any,
    config: BackboneConfig,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    *,
    source: str | None,
) -> Backbone:
    """Backbone of a timm ViT with a pyramid.

    Args:
        source_module: The timm module.
        config: Its `weights` is loaded here when `source` is None.
        mean: See `Backbone`.
        std: See `Backbone`.
        source: Of the module's weights, if they are loaded.
    """
    trunk = PlainVit(source_module)
    weights = source or load_file_or_random(trunk, config)
    neck = SimplePyramid(trunk.width)
    return Backbone(
        trunk, vit_taps, neck.channels, mean, std, trainable=config.trainable, weights=weights, neck=neck
    )
