"""Backbones by their names in recipes."""

from __future__ import annotations

from collections.abc import Callable

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.models.backbones import lite0, open_clip, segformer, timm_models
from clouds_deploy.models.backbones.backbone import Backbone
from clouds_deploy.models.clouds.adapters import attach

Builder = Callable[[BackboneConfig], Backbone]
_FAMILIES: dict[str, Builder] = {
    open_clip.PREFIX: open_clip.clip_backbone,
    segformer.PREFIX: segformer.segformer_backbone,
    timm_models.PREFIX: timm_models.timm_backbone,
}
_NAMES: dict[str, Builder] = {
    lite0.NAME: lite0.lite0_backbone,
    **dict.fromkeys(timm_models.ALIASES, timm_models.timm_backbone),
}
_EXAMPLES = ("open_clip/convnext_large_d_320", "open_clip/RN50", "open_clip/RN101", "open_clip/EVA02-L-14")


def build_backbone(config: BackboneConfig) -> Backbone:
    """Builds the backbone of a recipe, loads its weights, and adds its adapters.

    Args:
        config: `name` is `efficientnet_lite0`, `open_clip/<model>`, `timm/<model>`, `segformer/mit_b0..5`,
            `dinov2/s|b|l|g` (with `_reg4` too) or `dinov3/s|s_plus|b|l|h_plus|7b|convnext_<size>`.

    Raises:
        CloudsError: The name is unknown, its weights cannot be had (the message says where to get them), or
            the adapters do not fit.
    """
    return attach(_builder(config.name)(config), config.adapter)


def _builder(name: str) -> Builder:
    if name in _NAMES:
        return _NAMES[name]
    for prefix, builder in _FAMILIES.items():
        if name.startswith(prefix):
            return builder
    known = [*_NAMES, *_EXAMPLES, *(segformer.PREFIX + name for name in segformer.SIZES), "timm/resnet50"]
    raise CloudsError(f"there is no backbone `{name}`", nearest(name, known))
