"""The released checkpoint by names and shapes: that every tensor has its place needs no weights to prove."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.config.model import BackboneConfig, MaskDecoderConfig, PixelDecoderConfig
from clouds_deploy.models.clouds.classifiers import TextClassifier
from clouds_deploy.models.clouds.mask_decoder import MaskDecoder
from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder
from clouds_deploy.models.clouds.store import load_run
from clouds_deploy.models.importing import import_checkpoint, to_official
from clouds_deploy.models.importing.checkpoint import _detect_model
from clouds_deploy.models.importing.detect import clip_on_meta, detect_backbone, detect_head
from clouds_deploy.models.importing.hollow import hollow_segmenter
from clouds_deploy.models.importing.layout import Layout, official_layout
from clouds_deploy.models.importing.names import join, official_parts, split
from clouds_deploy.models.weights import shapes_of
from tests.parity.official_keys import PREDICTOR, Shapes, official_shapes

# of "name [shape]" lines, sorted: the list derived from the authors' own module definitions
LIST_SHA256 = "8202551f9cbcd657b6ff72a31c899941b3f7e2c71e88723d155ed2a0d83ae398"
LINEAR1 = "sem_seg_head.pixel_decoder.transformer.encoder.layers.3.linear1.weight"
STACKED = "sem_seg_head.predictor.transformer_cross_attention_layers.8.multihead_attn.in_proj_weight"


@pytest.fixture(scope="module")
def released() -> Shapes:
    return official_shapes()


@pytest.fixture(scope="module")
def layout(released: Shapes) -> Layout:
    """What the importer expects of the published model, built without memory on the meta device."""
    state = {name: torch.empty(shape, device="meta") for name, shape in released.items()}
    model = _detect_model(state, detect_head(state))
    clip = clip_on_meta(model.backbone)
    segmenter = hollow_segmenter(model, clip)
    assert segmenter.trainable_parameters() == 20_253_908
    return official_layout(shapes_of(segmenter.state_dict()), shapes_of(clip.state_dict()), "linear")


def test_the_rules_give_the_837_released_tensors(released: Shapes) -> None:
    lines = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(released.items()))
    assert len(released) == 837
    assert hashlib.sha256(lines.encode()).hexdigest() == LIST_SHA256


def test_the_published_checkpoint_fits_strictly(released: Shapes, layout: Layout) -> None:
    assert not layout.faults(released)
    assert dict(layout.shapes) == released
    assert len(layout.parts) + len(layout.aside) == 837
    assert len(layout.parts) == 632
    assert {"void_embedding.weight", "criterion.empty_weight"} <= set(layout.aside)


def test_each_fault_is_named(released: Shapes, layout: Layout) -> None:
    shapes = dict(released)
    del shapes[STACKED]
    shapes["sem_seg_head.predictor.extra.weight"] = (1,)
    shapes[LINEAR1] = shapes[LINEAR1][::-1]
    faults = layout.faults(shapes)
    assert faults.missing == (STACKED,)
    assert faults.unexpected == ("sem_seg_head.predictor.extra.weight",)
    assert faults.misshapen == {LINEAR1: "[256, 1024], not [1024, 256] (transposed)"}
    text = str(faults)
    assert all(name in text for name in (STACKED, "predictor.extra.weight", LINEAR1))


@pytest.mark.parametrize("gone", [STACKED, "backbone.clip_model.visual.trunk.stem.0.bias"])
def test_a_missing_tensor_does_not_change_what_is_detected(released: Shapes, gone: str) -> None:
    shapes = {name: shape for name, shape in released.items() if name != gone}
    assert detect_backbone(shapes) == "open_clip/convnext_large_d_320"
    assert detect_head(shapes) == "linear"


@pytest.mark.parametrize("name", ["RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "convnext_base_w"])
def test_other_published_backbones_are_told_by_their_shapes(name: str) -> None:
    clip = clip_on_meta(BackboneConfig(name=f"open_clip/{name}"))
    shapes = {f"backbone.clip_model.{key}": shape for key, shape in shapes_of(clip.state_dict()).items()}
    assert detect_backbone(shapes) == f"open_clip/{name}"
    quick = "-quickgelu" if name.startswith("RN") else ""  # how OpenAI trained the text tower
    assert detect_backbone(shapes, text=True) == f"open_clip/{name}{quick}"


def test_the_text_head_has_a_place_for_every_tensor_of_fc_clip() -> None:
    """FC-CLIP's 250 queries and 133 COCO classes; by names alone."""
    released = official_shapes(head="text", decoder=(9, 250, 2048), classes=133)
    assert detect_head(released) == "text"
    with torch.device("meta"):
        model = nn.ModuleDict(
            {
                "pixel_decoder": PixelDecoder((192, 384, 768, 1536), 256, PixelDecoderConfig()),
                "mask_decoder": MaskDecoder(
                    256, 19, MaskDecoderConfig(queries=250), TextClassifier(256, 768)
                ),
            }
        )
    clip = {n.removeprefix("backbone.clip_model."): s for n, s in released.items() if "clip_model" in n}
    layout = official_layout(shapes_of(model.state_dict()), clip, "text")
    assert not layout.faults(released)
    assert layout.shapes.keys() == released.keys()
    names = {f"mask_decoder.classify.{n}" for n in ("scale", "void")}
    names |= {f"mask_decoder.classify.pool.{i}.{p}" for i in (0, 1) for p in ("weight", "bias")}
    names |= {f"mask_decoder.classify.embed.{i}.{p}" for i in (0, 2, 4) for p in ("weight", "bias")}
    used = {name for ours in layout.parts.values() for name in ours if ".classify." in name}
    assert used == names
    assert layout.parts[f"{PREDICTOR}class_embed.layers.2.bias"] == ("mask_decoder.classify.embed.4.bias",)
    assert layout.parts["void_embedding.weight"] == ("mask_decoder.classify.void",)


def test_stacked_projections_part_and_join_without_loss() -> None:
    model = MaskDecoder(32, 19, MaskDecoderConfig(queries=4, layers=1, heads=4, feedforward=32))
    ours = {f"mask_decoder.{name}": tensor for name, tensor in model.state_dict().items()}
    parts = official_parts(ours)
    theirs = join(ours, parts)
    name = f"{PREDICTOR}transformer_self_attention_layers.0.self_attn.in_proj_weight"
    assert theirs[name].shape == (96, 32)
    torch.testing.assert_close(theirs[name][32:64], model.layers[0].self_attention.key.weight, rtol=0, atol=0)
    again = split(theirs, parts)
    assert again.keys() == ours.keys()
    assert all(torch.equal(again[key], ours[key]) for key in ours)


@pytest.mark.slow
def test_a_full_size_checkpoint_comes_back_bit_for_bit(released: Shapes, tmp_path: Path) -> None:
    """372 million random numbers: file, import, run, and back."""
    generator = torch.Generator().manual_seed(0)
    state = {name: torch.randn(shape, generator=generator) for name, shape in released.items()}
    torch.save({"model": state, "iteration": 39999}, tmp_path / "model_final.pth")
    result = import_checkpoint(tmp_path / "model_final.pth", out=tmp_path / "run")
    assert (result["tensors"], result["used"], result["kept_aside"]) == (837, 632, 205)
    assert read_manifest(tmp_path / "run", "run")["imported"]["backbone"] == "open_clip/convnext_large_d_320"
    again = to_official(tmp_path / "run")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())
    del again
    recipe, segmenter = load_run(tmp_path / "run")
    assert recipe.model.backbone.name == "open_clip/convnext_large_d_320"
    assert segmenter.trainable_parameters() == 20_253_908
    assert torch.equal(
        segmenter.backbone.trunk.stages[2].blocks[26].gamma,
        state["backbone.clip_model.visual.trunk.stages.2.blocks.26.gamma"],
    )
