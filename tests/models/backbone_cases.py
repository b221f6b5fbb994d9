"""Every family of backbones, small enough to test."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.models.backbones import CLIP_MEAN, Backbone, build_backbone

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
HEIGHT, WIDTH = 64, 96
IMAGENET = 123.675


@dataclass(frozen=True)
class Case:
    name: str
    channels: tuple[int, int, int, int]
    mean: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> BackboneConfig:
        return BackboneConfig(name=self.name, weights="random", options=self.options)


def _timm_clip(model: str, pool: str, projection: str | None, size: int) -> dict[str, Any]:
    vision = {
        "timm_model_name": model,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": projection,
        "image_size": size,
    }
    return {"vision_cfg": vision, "text_cfg": TEXT}


SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL_CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
CASES = {
    "clip_convnext": Case(
        "open_clip/convnext_base",
        (40, 80, 160, 320),
        CLIP_MEAN[0],
        _timm_clip("convnext_atto", "", "mlp", 64),
    ),
    "clip_resnet": Case(
        "open_clip/RN50",
        (64, 128, 256, 512),
        CLIP_MEAN[0],
        {
            "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "patch_size": None},
            "text_cfg": TEXT,
        },
    ),
    "clip_eva02": Case(
        "open_clip/EVA02-L-14",
        (48, 96, 192, 192),
        CLIP_MEAN[0],
        _timm_clip("eva02_tiny_patch14_224", "token", None, 224),
    ),
    "dinov2": Case("dinov2/s", (12, 24, 48, 48), IMAGENET, {**SMALL_VIT, "img_size": 56}),
    "dinov2_reg4": Case("dinov2/b_reg4", (12, 24, 48, 48), IMAGENET, {**SMALL_VIT, "img_size": 56}),
    "dinov3": Case("dinov3/s", (12, 24, 48, 48), IMAGENET, SMALL_VIT),
    "dinov3_convnext": Case("dinov3/convnext_tiny", (16, 32, 48, 64), IMAGENET, SMALL_CONVNEXT),
    "mit": Case(
        "segformer/mit_b0",
        (16, 32, 64, 64),
        IMAGENET,
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64]},
    ),
    "timm_resnet": Case(
        "timm/resnet18", (16, 32, 64, 128), IMAGENET, {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
    ),
    "timm_convnext": Case("timm/convnext_atto", (16, 32, 48, 64), IMAGENET, SMALL_CONVNEXT),
    "timm_lite": Case("timm/tf_efficientnet_lite0", (24, 40, 112, 320), 127.5),
    "timm_vit": Case("timm/vit_tiny_patch16_224", (12, 24, 48, 48), 127.5, SMALL_VIT),
}
LARGE = ("clip_convnext", "clip_eva02", "timm_lite")  # cannot be made smaller by options


def marked(name: str, slow: tuple[str, ...]) -> Any:
    return pytest.param(CASES[name], id=name, marks=[pytest.mark.slow] if name in slow else [])


every = pytest.mark.parametrize("case", [marked(name, LARGE) for name in CASES])


def build(case: Case, *, trainable: bool = False) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(case.config.model_copy(update={"trainable": trainable}))
    stir(backbone)
    return backbone


def stir(module: torch.nn.Module) -> None:
    """Move every parameter away from its start: layer scales of 1e-5 would hide a wrong block."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.05 * torch.randn_like(buffer))


def close(mine: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> bool:
    assert mine.shape == theirs.shape
    return bool((mine - theirs).abs().max() <= tolerance * theirs.abs().max())
