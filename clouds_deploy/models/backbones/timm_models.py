"""timm's models with maps at strides 4 to 32 for images of any size, and its plain ViTs.

`timm/<name>` accepts timm's own names, tag included: `timm/resnet50.a1_in1k`, `timm/convnext_large.fb_in22k`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError, first_line, nearest
from clouds_deploy.models.backbones.backbone import Backbone
from clouds_deploy.models.backbones.vit import is_plain_vit, plain_vit
from clouds_deploy.models.backbones.weights import DEFAULT, hub_error, load_file_or_random
from clouds_deploy.models.libraries import library

PREFIX = "timm/"
STRIDES = [4, 8, 16, 32]
_PLAIN = ("timm.models.vision_transformer", "timm.models.eva", "timm.models.deit")
ALIASES = {
    **{
        f"dinov2/{short}{suffix}": f"vit_{size}_patch14_{middle}dinov2.lvd142m"
        for short, size in (("s", "small"), ("b", "base"), ("l", "large"), ("g", "giant"))
        for suffix, middle in (("", ""), ("_reg4", "reg4_"))
    },
    **{
        f"dinov3/{short}": f"vit_{size}_patch16_dinov3.lvd1689m"
        for short, size in (
            ("s", "small"),
            ("s_plus", "small_plus"),
            ("b", "base"),
            ("l", "large"),
            ("h_plus", "huge_plus"),
            ("7b", "7b"),
        )
    },
    **{
        f"dinov3/convnext_{size}": f"convnext_{size}.dinov3_lvd1689m"
        for size in ("tiny", "small", "base", "large")
    },
}
"""Short names of the DINO families; the values are timm's."""


def timm_backbone(config: BackboneConfig) -> Backbone:
    """Builds `timm/<name>` or one of `ALIASES`.

    The normalisation is the one in timm's configuration of the weights. A weight file has timm's names.

    Raises:
        CloudsError: timm has no such model, its weights cannot be had, or it has no maps at strides 4 to 32.
    """
    timm = library("timm")

    name = ALIASES.get(config.name, config.name.removeprefix(PREFIX))
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise CloudsError(f"timm has no model `{architecture}`", nearest(architecture, timm.list_models()))
    known = [entry.partition(".")[2] for entry in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        raise CloudsError(f"timm has no weights `{tag}` of `{architecture}`", nearest(tag, known))
    settings = timm.get_pretrained_cfg(name)
    module = _create(name, config, settings)
    mean, std = _scaled(settings.mean), _scaled(settings.std)
    source = f"timm {name} ({_place(settings)})" if config.weights == DEFAULT else None
    if is_plain_vit(module):
        return plain_vit(module, config, mean, std, source=source)
    strides = module.feature_info.reduction()
    if strides != STRIDES:
        raise CloudsError(
            f"timm `{name}` has maps at strides {strides}, not {STRIDES}",
            "choose a hierarchical network (ResNet, ConvNeXt, EfficientNet) or a plain ViT",
        )
    weights = source or load_file_or_random(module, config)
    channels = tuple(module.feature_info.channels())
    return Backbone(module, features_taps, channels, mean, std, trainable=config.trainable, weights=weights)


def features_taps(trunk: nn.Module, image: Tensor) -> list[Tensor]:
    """Maps of timm's feature extractors."""
    return list(trunk(image))


def _create(name: str, config: BackboneConfig, settings: Any) -> Any:
    timm = library("timm")

    pretrained = config.weights == DEFAULT
    if pretrained and not settings.has_weights:
        raise CloudsError(f"timm knows no weights of `{name}`", "give a file, or `random`")
    family = timm.model_entrypoint(name.partition(".")[0]).__module__
    if family in _PLAIN:  # timm's feature extractors would omit a ViT's last norm
        shape: dict[str, Any] = {"num_classes": 0, "dynamic_img_size": True}
    else:
        shape = {"features_only": True, "out_indices": (-4, -3, -2, -1)}
    try:
        return timm.create_model(name, pretrained=pretrained, **shape, **config.options)
    except Exception as error:
        if pretrained:
            raise hub_error(f"timm `{name}`", f"`{_place(settings)}`", error) from error
        raise CloudsError(
            f"timm cannot give feature maps of `{name}`: {first_line(error)}", "check model.backbone.options"
        ) from error


def _place(settings: Any) -> str:
    return str(settings.hf_hub_id or settings.url or "no address known")


def _scaled(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return 255 * red, 255 * green, 255 * blue
