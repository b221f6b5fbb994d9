"""A model with names and shapes but no memory, and the vocabulary, which no checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from clouds_deploy.config.model import BackboneConfig, ModelConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES, LabelSet
from clouds_deploy.models.backbones import Clip, build_backbone, load_clip
from clouds_deploy.models.backbones.open_clip import clip_backbone, clip_tokenizer
from clouds_deploy.models.clouds.clip_head import GeometricEnsemble
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.vocabulary import embed_vocabulary
from clouds_deploy.models.importing.names import CLIP


def hollow_segmenter(model: ModelConfig, clip: Any | None, classes: LabelSet = CITYSCAPES) -> Segmenter:
    """Builds a model on the meta device.

    Args:
        model: Its configuration.
        clip: Its CLIP, on the meta device too. None for a head without one: then the recipe's backbone is
            built with its weights, and only the decoders are on the meta device.
        classes: Its label set.

    Raises:
        CloudsError: See `build_backbone`; or the text head has no CLIP.
    """
    if clip is None:
        if model.head == "text":
            raise CloudsError(
                "the checkpoint has a text head but no CLIP to take names from", "get the whole checkpoint"
            )
        backbone = build_backbone(model.backbone)
        with torch.device("meta"):
            return Segmenter(model, backbone, classes=classes.count)
    with torch.device("meta"):
        backbone = clip_backbone(model.backbone, Clip(clip, "", ready=True))
        if model.head == "linear":
            return Segmenter(model, backbone, classes=classes.count)
        synonyms = classes.synonyms
        shape = (len(synonyms), max(len(s) for s in synonyms), clip.text_projection.shape[1])
        text, seen = model.text, torch.ones(len(synonyms), dtype=torch.bool)
        ensemble = None
        if text.ensemble:
            ensemble = GeometricEnsemble(clip, seen, text.alpha, text.beta, only_valid=text.only_valid)
        return Segmenter(model, backbone, torch.empty(shape), ensemble, classes.count)


def own_vocabulary(
    backbone: BackboneConfig, state: Mapping[str, Tensor], classes: LabelSet = CITYSCAPES
) -> Tensor:
    """Vectors of the classes' names from the text tower of a checkpoint.

    Args:
        backbone: Configuration of the CLIP.
        state: The checkpoint's tensors, including all of that CLIP.
        classes: The label set.

    Returns:
        (C, S, D) unit vectors; see `models.clouds.vocabulary`.
    """
    with torch.random.fork_rng(devices=[]):
        clip = load_clip(backbone.model_copy(update={"weights": "random"})).model.eval()
    clip.load_state_dict({n.removeprefix(CLIP): t for n, t in state.items() if n.startswith(CLIP)})
    return embed_vocabulary(clip, clip_tokenizer(backbone), classes.synonyms)
