"""Names of our tensors in official checkpoints.

CLOUDS, FC-CLIP and Mask2Former share one layout (docs/explanation/method.md 6). Shapes are equal, except
for attention: theirs stacks the projections of query, key and value, which are three layers here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

CLIP = "backbone.clip_model."
PIXEL = "sem_seg_head.pixel_decoder."
PREDICTOR = "sem_seg_head.predictor."
VOID = "void_embedding.weight"
EMPTY_WEIGHT = "criterion.empty_weight"
OLD_QUERIES, QUERIES = f"{PREDICTOR}static_query.weight", f"{PREDICTOR}query_feat.weight"

_ENCODER = f"{PIXEL}transformer.encoder.layers."
_SELF = f"{PREDICTOR}transformer_self_attention_layers."
_CROSS = f"{PREDICTOR}transformer_cross_attention_layers."
_FEEDFORWARD = f"{PREDICTOR}transformer_ffn_layers."
_STACKED = {"query": 0, "key": 1, "value": 2}

_RULES: tuple[tuple[str, str], ...] = (
    (r"pixel_decoder\.project\.(.+)", rf"{PIXEL}input_proj.\1"),
    (r"pixel_decoder\.level_embedding", f"{PIXEL}transformer.level_embed"),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.value_projection\.(.+)",
        rf"{_ENCODER}\1.self_attn.value_proj.\2",
    ),
    (
        r"pixel_decoder\.layers\.(\d+)\.attention\.output_projection\.(.+)",
        rf"{_ENCODER}\1.self_attn.output_proj.\2",
    ),
    (r"pixel_decoder\.layers\.(\d+)\.attention\.(.+)", rf"{_ENCODER}\1.self_attn.\2"),
    (r"pixel_decoder\.layers\.(\d+)\.attention_norm\.(.+)", rf"{_ENCODER}\1.norm1.\2"),
    (r"pixel_decoder\.layers\.(\d+)\.expand\.(.+)", rf"{_ENCODER}\1.linear1.\2"),
    (r"pixel_decoder\.layers\.(\d+)\.contract\.(.+)", rf"{_ENCODER}\1.linear2.\2"),
    (r"pixel_decoder\.layers\.(\d+)\.feedforward_norm\.(.+)", rf"{_ENCODER}\1.norm2.\2"),
    (r"pixel_decoder\.lateral\.0\.(.+)", rf"{PIXEL}adapter_1.\1"),
    (r"pixel_decoder\.lateral\.1\.(.+)", rf"{PIXEL}adapter_1.norm.\1"),
    (r"pixel_decoder\.output\.0\.(.+)", rf"{PIXEL}layer_1.\1"),
    (r"pixel_decoder\.output\.1\.(.+)", rf"{PIXEL}layer_1.norm.\1"),
    (r"pixel_decoder\.mask_features\.(.+)", rf"{PIXEL}mask_features.\1"),
    (r"mask_decoder\.query_features", QUERIES),
    (r"mask_decoder\.query_embedding", f"{PREDICTOR}query_embed.weight"),
    (r"mask_decoder\.level_embedding", f"{PREDICTOR}level_embed.weight"),
    (
        r"mask_decoder\.layers\.(\d+)\.cross_attention\.output\.(.+)",
        rf"{_CROSS}\1.multihead_attn.out_proj.\2",
    ),
    (
        r"mask_decoder\.layers\.(\d+)\.cross_attention\.(query|key|value)\.(.+)",
        rf"{_CROSS}\1.multihead_attn.in_proj_\3",
    ),
    (r"mask_decoder\.layers\.(\d+)\.cross_norm\.(.+)", rf"{_CROSS}\1.norm.\2"),
    (r"mask_decoder\.layers\.(\d+)\.self_attention\.output\.(.+)", rf"{_SELF}\1.self_attn.out_proj.\2"),
    (
        r"mask_decoder\.layers\.(\d+)\.self_attention\.(query|key|value)\.(.+)",
        rf"{_SELF}\1.self_attn.in_proj_\3",
    ),
    (r"mask_decoder\.layers\.(\d+)\.self_norm\.(.+)", rf"{_SELF}\1.norm.\2"),
    (r"mask_decoder\.layers\.(\d+)\.expand\.(.+)", rf"{_FEEDFORWARD}\1.linear1.\2"),
    (r"mask_decoder\.layers\.(\d+)\.contract\.(.+)", rf"{_FEEDFORWARD}\1.linear2.\2"),
    (r"mask_decoder\.layers\.(\d+)\.feedforward_norm\.(.+)", rf"{_FEEDFORWARD}\1.norm.\2"),
    (r"mask_decoder\.norm\.(.+)", rf"{PREDICTOR}decoder_norm.\1"),
    (r"mask_decoder\.mask_embedding\.(\d+)\.(.+)", rf"{PREDICTOR}mask_embed.layers.\1.\2"),
    (r"mask_decoder\.classify\.(weight|bias)", rf"{PREDICTOR}class_embed.\1"),
    (r"mask_decoder\.classify\.embed\.(\d+)\.(.+)", rf"{PREDICTOR}class_embed.layers.\1.\2"),
    (r"mask_decoder\.classify\.pool\.(.+)", rf"{PREDICTOR}_mask_pooling_proj.\1"),
    (r"mask_decoder\.classify\.scale", f"{PREDICTOR}logit_scale"),
    (r"mask_decoder\.classify\.void", VOID),
    (r"ensemble\.head\.norm\.(.+)", rf"{CLIP}visual.trunk.head.\1"),
    (r"ensemble\.head\.project\.(.+)", rf"{CLIP}visual.head.\1"),
    (r"ensemble\.head\.pool\.(.+)", rf"{CLIP}visual.attnpool.\1"),
    (r"ensemble\.scale", f"{CLIP}logit_scale"),
    (r"backbone\.trunk\.(stem|stages)\.(.+)", rf"{CLIP}visual.trunk.\1.\2"),
    (r"backbone\.trunk\.((?:conv|bn|layer)\d.*)", rf"{CLIP}visual.\1"),
)


@dataclass(frozen=True)
class Place:
    """Place of one of our tensors in an official checkpoint.

    Attributes:
        name: The official tensor.
        part: Number of its third along axis 0, or None for all of it.
    """

    name: str
    part: int | None = None


def place(name: str) -> Place | None:
    """Place of one of our tensors in the official layout.

    Args:
        name: A name of `Segmenter.state_dict()`, either head, CLIP backbone.

    Returns:
        None if the official layout has no such tensor.
    """
    for pattern, replacement in _RULES:
        match = re.fullmatch(pattern, name)
        if match is None:
            continue
        theirs = match.expand(replacement)
        if ".layers." in theirs and theirs.startswith((f"{PREDICTOR}mask_embed", f"{PREDICTOR}class_embed")):
            # our perceptron numbers its activations too, theirs does not
            theirs = re.sub(r"(?<=\.layers\.)\d+", lambda index: str(int(index[0]) // 2), theirs)
        stacked = next((word for word in match.groups() if word in _STACKED), None)
        return Place(theirs, None if stacked is None else _STACKED[stacked])
    return None


def official_parts(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Our tensors that each official tensor consists of.

    Args:
        names: Ours; those without a place in the official layout are left out.

    Returns:
        Our names by official name, in the order of their stack along axis 0.
    """
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        spot = place(name)
        if spot is not None:
            found.setdefault(spot.name, []).append((spot.part or 0, name))
    return {theirs: tuple(name for _, name in sorted(ours)) for theirs, ours in found.items()}


def split(tensors: Mapping[str, Tensor], parts: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Our tensors from official ones, as views; `parts` is from `official_parts`."""
    return {
        name: piece
        for theirs, ours in parts.items()
        for name, piece in zip(
            ours, tensors[theirs].chunk(len(ours)) if len(ours) > 1 else (tensors[theirs],), strict=True
        )
    }


def join(tensors: Mapping[str, Tensor], parts: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Official tensors from ours: the inverse of `split`, bit for bit."""
    return {
        theirs: torch.cat([tensors[name] for name in ours]) if len(ours) > 1 else tensors[ours[0]]
        for theirs, ours in parts.items()
    }
