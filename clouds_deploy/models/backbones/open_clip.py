"""CLIP's image towers by their open_clip names: ConvNeXt, ResNet, EVA02 (docs/explanation/method.md 2.1)."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.models.backbones.backbone import Backbone, Tower
from clouds_deploy.models.backbones.vit import is_plain_vit, plain_vit
from clouds_deploy.models.backbones.weights import DEFAULT, RANDOM, hub_error, load_file_or_random
from clouds_deploy.models.libraries import library

CLIP_MEAN = (122.7709383, 116.7460125, 104.09373615)
CLIP_STD = (68.5005327, 66.6321579, 70.32316305)
PREFIX = "open_clip/"

_PREFERRED = ("laion2b_s29b_b131k_ft_soup", "merged2b_s6b_b61k", "merged2b_s4b_b131k")
_RESNET = tuple(f"{kind}{i}" for i in (1, 2, 3) for kind in ("conv", "bn", "act"))
_LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Clip(NamedTuple):
    """A whole CLIP.

    Attributes:
        model: open_clip's module, both towers, with `encode_image` and `encode_text`.
        source: Of its weights.
        ready: Whether they are loaded; False means a file that may hold only the image tower.
    """

    model: Any
    source: str
    ready: bool


def load_clip(config: BackboneConfig, *, text: bool = True) -> Clip:
    """Loads the CLIP of a recipe, for the backbone, for the text head, or once for both.

    Args:
        config: `name` is `open_clip/<model>`; `options` override open_clip's model configuration.
        text: Whether the text tower is needed. Then a weight file must hold the whole CLIP; otherwise the
            image tower suffices, and is loaded by `clip_backbone`.

    Raises:
        CloudsError: open_clip has no such model, or its weights cannot be had.
    """
    open_clip = library("open_clip")

    name = config.name.removeprefix(PREFIX)
    if name not in open_clip.list_models():
        known = (m for m in open_clip.list_models() if m.startswith(("convnext", "RN", "EVA02-L")))
        raise CloudsError(f"open_clip has no model `{name}`", nearest(name, known))
    tags = open_clip.list_pretrained_tags_by_model(name)
    tag = config.weights
    if tag == DEFAULT:
        if not tags:
            raise CloudsError(f"open_clip knows no weights for `{name}`", "give a file, or `random`")
        tag = next((preferred for preferred in _PREFERRED if preferred in tags), tags[0])
    from_hub = tag in tags
    try:
        model: Any = open_clip.create_model(
            name,
            pretrained=tag if from_hub else None,
            precision="fp32",
            weights_only=True,
            **config.options,
        )
    except Exception as error:
        if not from_hub:
            raise
        raise hub_error(f"open_clip `{name}`", f"`{tag}`{_hub_id(name, tag)}", error) from error
    if from_hub:
        return Clip(model, f"open_clip {name}/{tag}", ready=True)
    if text or tag == RANDOM:
        return Clip(model, load_file_or_random(model, config), ready=True)
    return Clip(model, f"file {tag}", ready=False)


def clip_tokenizer(config: BackboneConfig) -> Any:
    """Tokenizer of a CLIP; texts are cut to its context length.

    Args:
        config: As in `load_clip`; `options` may shorten the context.
    """
    open_clip = library("open_clip")

    name = config.name.removeprefix(PREFIX)
    length = config.options.get("text_cfg", {}).get("context_length")
    return open_clip.get_tokenizer(name, context_length=length)


def _hub_id(name: str, tag: str) -> str:
    open_clip = library("open_clip")

    entry: dict[str, Any] = open_clip.get_pretrained_cfg(name, tag) or {}
    place = str(entry.get("hf_hub") or entry.get("url") or "").rstrip("/")
    return f" ({place})" if place else ""


def clip_backbone(config: BackboneConfig, clip: Clip | None = None) -> Backbone:
    """Backbone from the image tower of a CLIP; the CLIP itself stays whole.

    Args:
        config: `name` is `open_clip/<model>`.
        clip: The CLIP; None loads it.

    Raises:
        CloudsError: See `load_clip`; or the model is neither a ConvNeXt nor a ResNet nor an EVA02.
    """
    clip = clip or load_clip(config, text=False)
    visual = clip.model.visual
    if hasattr(visual, "trunk") and hasattr(visual.trunk, "stages"):
        trunk: nn.Module = Tower(visual.trunk, ("stem", "stages"))
        taps = convnext_taps
        channels = tuple(entry["num_chs"] for entry in visual.trunk.feature_info)
    elif hasattr(visual, "layer4"):
        trunk, taps = Tower(visual, (*_RESNET, "avgpool", *_LAYERS)), resnet_taps
        width = visual.layer1[0].conv1.out_channels
        channels = tuple(4 * width * 2**stage for stage in range(4))
    elif hasattr(visual, "trunk") and is_plain_vit(visual.trunk):
        return plain_vit(
            visual.trunk, config, CLIP_MEAN, CLIP_STD, source=clip.source if clip.ready else None
        )
    else:
        name = config.name.removeprefix(PREFIX)
        raise CloudsError(
            f"open_clip `{name}` is neither a ConvNeXt nor a ResNet nor an EVA02", "choose one that is"
        )
    source = clip.source if clip.ready else load_file_or_random(trunk, config)
    return Backbone(trunk, taps, channels, CLIP_MEAN, CLIP_STD, trainable=config.trainable, weights=source)


def convnext_taps(trunk: Any, image: Tensor) -> list[Tensor]:
    """Maps of a timm ConvNeXt after each stage, without any extra norm.

    timm transposes the channels of every block to the end and back. Here the pixels of a stage stay a list of
    tokens, as its norms and linear layers need them; only the depthwise convolution gets a map, in the memory
    order that suits it.
    """
    x, before = trunk.stem(image), None
    maps = []
    for stage in trunk.stages:
        x = stage.downsample(x) if before is None else _downsample(stage.downsample, *before)
        before = None
        if all(_takes_tokens(block) for block in stage.blocks):
            size = (int(x.shape[2]), int(x.shape[3]))
            tokens = x.permute(0, 2, 3, 1).flatten(1, 2)
            for block in stage.blocks:
                tokens = _block_on_tokens(block, tokens, size)
            x, before = _as_map(tokens, size), (tokens, size)
        else:
            x = stage.blocks(x)
        maps.append(x)
    return maps


def _as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    return cast("Tensor", tokens.unflatten(1, size).permute(0, 3, 1, 2))


def _downsample(downsample: Any, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Normalises the tokens of the previous stage, and halves their map."""
    norm, convolution = downsample
    tokens = F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    out: Tensor = convolution(_as_map(tokens, size))
    return out


def _takes_tokens(block: Any) -> bool:
    return not block.use_conv_mlp and isinstance(block.shortcut, nn.Identity)


def _block_on_tokens(block: Any, tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """Equivalent of `timm.models.convnext.ConvNeXtBlock` on (B, h * w, C)."""
    y = block.conv_dw(_as_map(tokens, size))
    y = block.mlp(block.norm(y.permute(0, 2, 3, 1).flatten(1, 2)))
    if block.gamma is not None:
        y = y * block.gamma
    out: Tensor = block.drop_path(y) + tokens
    return out


def resnet_taps(trunk: Any, image: Tensor) -> list[Tensor]:
    """Maps of CLIP's ResNet after each layer: three convolutions, an average pool, then the layers."""
    x = image
    for index in (1, 2, 3):
        x = getattr(trunk, f"conv{index}")(x)
        x = getattr(trunk, f"act{index}")(getattr(trunk, f"bn{index}")(x))
    x = trunk.avgpool(x)
    maps = []
    for layer in _LAYERS:
        x = getattr(trunk, layer)(x)
        maps.append(x)
    return maps
