"""Mix Transformers MiT-B0..B5 (Xie et al. 2021), from transformers' SegFormer.

transformers is an optional dependency; the sizes are those of the paper's table 6.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.models.backbones.backbone import Backbone
from clouds_deploy.models.backbones.weights import DEFAULT, hub_error, load_file_or_random
from clouds_deploy.models.libraries import library

PREFIX = "segformer/"
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)
SIZES: dict[str, tuple[list[int], list[int]]] = {
    "mit_b0": ([2, 2, 2, 2], [32, 64, 160, 256]),
    "mit_b1": ([2, 2, 2, 2], [64, 128, 320, 512]),
    "mit_b2": ([3, 4, 6, 3], [64, 128, 320, 512]),
    "mit_b3": ([3, 4, 18, 3], [64, 128, 320, 512]),
    "mit_b4": ([3, 8, 27, 3], [64, 128, 320, 512]),
    "mit_b5": ([3, 6, 40, 3], [64, 128, 320, 512]),
}
"""Layers and channels of the four stages."""

_OLD_NAMES = (
    (r"^segformer\.", ""),
    (r"^encoder\.patch_embeddings\.(\d)\.", r"stages.\1.patch_embeddings."),
    (r"^encoder\.block\.(\d)\.", r"stages.\1.blocks."),
    (r"^encoder\.layer_norm\.(\d)\.", r"stages.\1.layer_norm."),
    (r"\.attention\.self\.(query|key|value)\.", r".attention.\1."),
    (r"\.attention\.query\.", ".attention.q_proj."),
    (r"\.attention\.key\.", ".attention.k_proj."),
    (r"\.attention\.value\.", ".attention.v_proj."),
    (r"\.attention\.self\.sr\.", ".attention.sequence_reduction.sequence_reduction."),
    (r"\.attention\.self\.layer_norm\.", ".attention.sequence_reduction.layer_norm."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
    (r"\.layer_norm_1\.", ".layernorm_before."),
    (r"\.layer_norm_2\.", ".layernorm_after."),
)
"""Patterns of names in the hub's files, and their replacements in transformers 5."""


def segformer_backbone(config: BackboneConfig) -> Backbone:
    """Builds `segformer/mit_b0` ... `mit_b5`.

    Args:
        config: `options` are arguments of transformers' `SegformerConfig`; a weight file may have the names
            of the hub's files or those of transformers 5.

    Raises:
        CloudsError: transformers is not installed, the size is unknown, or the weights cannot be had.
    """
    name = config.name.removeprefix(PREFIX)
    if name not in SIZES:
        raise CloudsError(f"there is no Mix Transformer `{name}`", nearest(name, SIZES))
    transformers = library("transformers")
    depths, widths = SIZES[name]
    settings = transformers.SegformerConfig(**{"depths": depths, "hidden_sizes": widths, **config.options})
    if config.weights == DEFAULT:
        hub = f"nvidia/{name.replace('_', '-')}"
        try:
            trunk: Any = transformers.SegformerModel.from_pretrained(
                hub, trust_remote_code=False, weights_only=True
            )
        except Exception as error:
            raise hub_error(f"`{config.name}`", f"`{hub}`", error) from error
        source = f"Hugging Face {hub}"
    else:
        trunk = transformers.SegformerModel(settings)
        source = load_file_or_random(trunk, config, new_name)
    channels = tuple(trunk.config.hidden_sizes)
    return Backbone(trunk, mit_taps, channels, MEAN, STD, trainable=config.trainable, weights=source)


def mit_taps(trunk: Any, image: Tensor) -> list[Tensor]:
    """Maps of a Mix Transformer after each stage's norm."""
    x = image
    maps = []
    for stage in trunk.stages:
        x = stage(x)
        maps.append(x)
    return maps


def new_name(name: str) -> str:
    """Name in transformers 5 of a tensor of the hub's files; other names stay."""
    for pattern, replacement in _OLD_NAMES:
        name = re.sub(pattern, replacement, name)
    return name
