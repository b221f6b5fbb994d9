"""Detection of a checkpoint's head and backbone from names and shapes alone."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones.open_clip import PREFIX
from clouds_deploy.models.importing.names import CLIP, PREDICTOR
from clouds_deploy.models.libraries import library
from clouds_deploy.models.weights import Shapes, shapes_of

Head = Literal["linear", "text"]

CONVNEXTS = {
    "convnext_large_d_320": "laion2b_s29b_b131k_ft_soup",
    "convnext_base_w": "laion2b_s13b_b82k_augreg",
    "convnext_base": "laion400m_s13b_b51k",
    "convnext_xxlarge": "laion2b_s34b_b82k_augreg_soup",
}
RESNETS = dict.fromkeys(("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64"), "openai")
"""The CLIPs that checkpoints of this layout are published for, and the weights that each was trained from.

Models that differ only in their image size have the same shapes; the first of them is listed.
"""


def detect_head(names: Mapping[str, Any]) -> Head:
    """Head of a checkpoint.

    Args:
        names: By official names.

    Raises:
        CloudsError: It has none, or CLOUDS' unpublished mixture of the two.
    """
    linear = [f"{PREDICTOR}class_embed.{part}" in names for part in ("weight", "bias")]
    text = [name for name in names if name.startswith(f"{PREDICTOR}class_embed.layers.")]
    pooled = [name for name in names if name.startswith(f"{PREDICTOR}_mask_pooling_proj.")]
    if any(linear) and pooled:
        raise CloudsError(
            "the checkpoint pools features under masks and classifies them linearly (CLOUDS' `Bis` decoder)",
            "no published configuration uses it; import a checkpoint with the linear or the text head",
        )
    if any(linear) or text:
        return "linear" if any(linear) else "text"
    if pooled:
        return "text"
    raise CloudsError(
        f"the checkpoint has no `{PREDICTOR}class_embed`: it is not one of CLOUDS, FC-CLIP or Mask2Former",
        f"it begins with `{next(iter(names))}`; weights of a backbone alone go into model.backbone.weights",
    )


def detect_backbone(shapes: Shapes, *, text: bool = False) -> str:
    """CLIP of a checkpoint: the one whose tensors it all has, or the nearest.

    Args:
        shapes: By official names.
        text: Whether its text tower will be used. OpenAI's has another activation (QuickGELU) than
            open_clip's ResNets without OpenAI's weights; shapes do not show it, so the name must.

    Returns:
        A name for `BackboneConfig.name`.

    Raises:
        CloudsError: It is not a known CLIP, and differs from each in more than half of the tensors.
    """
    inside = {n.removeprefix(CLIP): s for n, s in shapes.items() if n.startswith(CLIP)}
    if any(name.startswith("visual.trunk.") for name in inside):
        candidates = CONVNEXTS
    elif any(name.startswith("visual.layer1.") for name in inside):
        candidates = RESNETS
    else:
        raise CloudsError(
            f"the CLIP under `{CLIP}` is no ConvNeXt (`visual.trunk.`) and no ResNet (`visual.layer1.`)",
            "name its model in a recipe and give that with --recipe",
        )
    suffix = "-quickgelu" if text and candidates is RESNETS else ""
    distances: dict[str, float] = {}
    for name in candidates:
        expected = shapes_of(clip_on_meta(BackboneConfig(name=PREFIX + name)).state_dict())
        wrong = sum(expected.get(key) != inside.get(key) for key in expected.keys() | inside.keys())
        if not wrong:
            return PREFIX + name + suffix
        distances[name] = wrong / len(expected)
    nearest = min(distances, key=lambda name: distances[name])
    if distances[nearest] > 0.5:
        raise CloudsError(
            f"no published CLIP has the shapes of this one; nearest is `{nearest}`, "
            f"{distances[nearest]:.0%} of whose tensors differ",
            "name its model in a recipe and give that with --recipe",
        )
    return PREFIX + nearest + suffix


def published_weights(backbone: str) -> str:
    """open_clip tag that a published backbone was loaded with, or `default`."""
    return {**CONVNEXTS, **RESNETS}.get(backbone.removeprefix(PREFIX).removesuffix("-quickgelu"), "default")


def clip_on_meta(config: BackboneConfig) -> Any:
    """CLIP with names and shapes but no memory: open_clip's module on the meta device.

    Raises:
        CloudsError: open_clip has no such model.
    """
    open_clip = library("open_clip")

    name = config.name.removeprefix(PREFIX)
    if not config.name.startswith(PREFIX) or name not in open_clip.list_models():
        raise CloudsError(
            f"the checkpoint holds a CLIP, and `{config.name}` is not one",
            "set model.backbone.name to the open_clip model it was trained with",
        )
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it warns that weights on meta are random
    try:
        with torch.device("meta"):
            return open_clip.create_model(name, device="meta", weights_only=True, **config.options)
    finally:
        logging.root.setLevel(level)
