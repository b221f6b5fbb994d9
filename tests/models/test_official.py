from __future__ import annotations

import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.config.model import (
    BackboneConfig,
    MaskDecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    TextConfig,
)
from clouds_deploy.config.recipe import EvaluateConfig, Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import label_set
from clouds_deploy.models.clouds.segmenter import build_segmenter
from clouds_deploy.models.clouds.store import load_run, read_tensors
from clouds_deploy.models.clouds.vocabulary import TEMPLATES
from clouds_deploy.models.importing import import_checkpoint, to_official
from clouds_deploy.models.importing.checkpoint import ASIDE
from clouds_deploy.models.importing.detect import clip_on_meta, detect_backbone, detect_head
from tests.parity.official_keys import CLIP, PIXEL, PREDICTOR, Shapes, official_shapes

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
CONVNEXT = {
    "vision_cfg": {
        "timm_model_name": "test_convnext",
        "timm_model_pretrained": False,
        "timm_pool": "",
        "timm_proj": "mlp",
        "image_size": 64,
    },
    "text_cfg": TEXT,
    "embed_dim": 32,
}
RESNET = {
    "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "image_size": 64, "patch_size": None},
    "text_cfg": TEXT,
    "embed_dim": 32,
}
SMALL: dict[str, Any] = {"width": 32, "encoder": (1, 4, 64), "decoder": (2, 8, 64)}
LINEAR1 = f"{PIXEL}transformer.encoder.layers.0.linear1.weight"


def recipe(backbone: BackboneConfig) -> Recipe:
    return Recipe(
        name="small",
        model=ModelConfig(
            backbone=backbone,
            width=32,
            pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
            mask_decoder=MaskDecoderConfig(queries=8, layers=2, heads=4, feedforward=64),
        ),
        evaluate=EvaluateConfig(short_side=None),
    )


CONVNEXT_RECIPE = recipe(
    BackboneConfig(name="open_clip/convnext_large_d_320", weights="random", options=CONVNEXT)
)
RESNET_RECIPE = recipe(BackboneConfig(name="open_clip/RN50", weights="random", options=RESNET))


def convnext_shapes() -> Shapes:
    return official_shapes(
        dims=(24, 32, 48, 64), depths=(1, 2, 4, 2), dimension=32, text=(32, 1, 64, 8), **SMALL
    )


def resnet_shapes() -> Shapes:
    clip = clip_on_meta(RESNET_RECIPE.model.backbone).state_dict()
    head = official_shapes(dims=(32, 64, 128, 256), depths=(1, 1, 1, 1), dimension=32, **SMALL)
    return {CLIP + name: tuple(tensor.shape) for name, tensor in clip.items()} | {
        name: shape for name, shape in head.items() if not name.startswith(CLIP)
    }


def fill(shapes: Shapes) -> dict[str, Tensor]:
    """Random numbers such as a trained network may hold: variances are positive, counters whole."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = OrderedDict()
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator) * 0.2
        if name.endswith("num_batches_tracked"):
            noise = torch.tensor(7)
        elif name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            noise = 1 + noise.abs()
        state[name] = noise
    return state


@pytest.fixture(scope="module")
def small() -> dict[str, Tensor]:
    return fill(convnext_shapes())


def save(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


def by_hand(model: ModelConfig, state: dict[str, Tensor]) -> torch.nn.Module:
    """Build the segmenter and copy tensor by tensor, without the importer's tables."""
    segmenter = build_segmenter(model).eval()
    pixel, mask = segmenter.pixel_decoder, segmenter.mask_decoder

    def put(module: Any, prefix: str) -> None:
        module.load_state_dict(
            {n.removeprefix(f"{prefix}."): t for n, t in state.items() if n.startswith(f"{prefix}.")}
        )

    visual = f"{CLIP}visual.trunk." if f"{CLIP}visual.trunk.stem.0.weight" in state else f"{CLIP}visual."
    segmenter.backbone.trunk.load_state_dict(
        {n: state[visual + n] for n in segmenter.backbone.trunk.state_dict()}
    )
    for index in range(3):
        put(pixel.project[index], f"{PIXEL}input_proj.{index}")
    layer, theirs = pixel.layers[0], f"{PIXEL}transformer.encoder.layers.0"
    for ours, name in {
        layer.attention.sampling_offsets: "self_attn.sampling_offsets",
        layer.attention.attention_weights: "self_attn.attention_weights",
        layer.attention.value_projection: "self_attn.value_proj",
        layer.attention.output_projection: "self_attn.output_proj",
        layer.attention_norm: "norm1",
        layer.expand: "linear1",
        layer.contract: "linear2",
        layer.feedforward_norm: "norm2",
    }.items():
        put(ours, f"{theirs}.{name}")
    put(pixel.mask_features, f"{PIXEL}mask_features")
    for ours, name in ((pixel.lateral, "adapter_1"), (pixel.output, "layer_1")):
        put(ours[1], f"{PIXEL}{name}.norm")
        ours[0].weight.data.copy_(state[f"{PIXEL}{name}.weight"])
    pixel.level_embedding.data.copy_(state[f"{PIXEL}transformer.level_embed"])
    for index, block in enumerate(mask.layers):
        for kind, attention, norm, inner in (
            ("cross", block.cross_attention, block.cross_norm, "multihead_attn"),
            ("self", block.self_attention, block.self_norm, "self_attn"),
        ):
            prefix = f"{PREDICTOR}transformer_{kind}_attention_layers.{index}"
            put(norm, f"{prefix}.norm")
            put(attention.output, f"{prefix}.{inner}.out_proj")
            for part in ("weight", "bias"):
                stacked = state[f"{prefix}.{inner}.in_proj_{part}"]
                for row, layer in enumerate((attention.query, attention.key, attention.value)):
                    getattr(layer, part).data.copy_(stacked[32 * row : 32 * row + 32])
        prefix = f"{PREDICTOR}transformer_ffn_layers.{index}"
        put(block.expand, f"{prefix}.linear1")
        put(block.contract, f"{prefix}.linear2")
        put(block.feedforward_norm, f"{prefix}.norm")
    put(mask.norm, f"{PREDICTOR}decoder_norm")
    put(mask.classify, f"{PREDICTOR}class_embed")
    mask.query_features.data.copy_(state[f"{PREDICTOR}query_feat.weight"])
    mask.query_embedding.data.copy_(state[f"{PREDICTOR}query_embed.weight"])
    mask.level_embedding.data.copy_(state[f"{PREDICTOR}level_embed.weight"])
    for index in range(3):
        put(mask.mask_embedding[2 * index], f"{PREDICTOR}mask_embed.layers.{index}")
    return segmenter


@pytest.mark.parametrize("family", ["convnext", "resnet"])
def test_the_whole_road(family: str, tmp_path: Path) -> None:
    shapes, description = (
        (convnext_shapes(), CONVNEXT_RECIPE) if family == "convnext" else (resnet_shapes(), RESNET_RECIPE)
    )
    state = fill(shapes)
    path = save(
        {"model": state, "iteration": 3, "optimizer": {"lr": np.float64(0.1)}}, tmp_path / "final.pth"
    )
    result = import_checkpoint(path, out=tmp_path / "run", recipe=description)
    assert result["used"] + result["kept_aside"] == result["tensors"] == len(state)
    manifest = read_manifest(tmp_path / "run", "run")
    assert manifest["inputs"] == {"final.pth": result["sha256"]}
    assert manifest["backbone_weights"] == "imported final.pth"
    loaded, segmenter = load_run(tmp_path / "run")
    assert loaded == description
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255
    with torch.no_grad():
        expected = by_hand(description.model, state).scores(image)  # type: ignore[operator]
        torch.testing.assert_close(segmenter.scores(image), expected, rtol=0, atol=0)
    assert expected.std() > 0
    assert f"{CLIP}token_embedding.weight" in read_tensors(tmp_path / "run" / ASIDE)
    again = to_official(tmp_path / "run")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[n], t) and again[n].dtype == t.dtype for n, t in state.items())


@pytest.mark.parametrize("ensemble", [False, True])
def test_a_text_head_brings_its_own_names(ensemble: bool, tmp_path: Path) -> None:
    """FC-CLIP's layout, with 133 classes of its own; the vocabulary is made with its text tower."""
    import open_clip

    shapes = official_shapes(
        dims=(24, 32, 48, 64),
        depths=(1, 2, 4, 2),
        dimension=32,
        text=(32, 1, 49408, 77),
        head="text",
        classes=133,
        **SMALL,
    )
    state = fill(shapes)
    options = {**CONVNEXT, "text_cfg": {**TEXT, "vocab_size": 49408, "context_length": 77}}
    backbone = BackboneConfig(name="open_clip/convnext_large_d_320", weights="random", options=options)
    small = recipe(backbone)
    text = TextConfig(ensemble=ensemble)
    small = small.model_copy(update={"model": small.model.model_copy(update={"head": "text", "text": text})})
    result = import_checkpoint(save({"model": state}, tmp_path / "x.pth"), out=tmp_path / "run", recipe=small)
    assert (result["head"], result["tensors"]) == ("text", len(shapes))
    _, segmenter = load_run(tmp_path / "run")
    clip = open_clip.create_model("convnext_large_d_320", **options)
    clip.load_state_dict({n.removeprefix(CLIP): t for n, t in state.items() if n.startswith(CLIP)})
    tokens = open_clip.get_tokenizer("convnext_large_d_320")([t.format("pole") for t in TEMPLATES])
    with torch.no_grad():
        mean = torch.nn.functional.normalize(clip.eval().encode_text(tokens), dim=-1).mean(0)
        scores = segmenter.scores(torch.full((1, 3, 64, 64), 90.0))
    pole = torch.nn.functional.normalize(mean, dim=0)
    assert segmenter.vocabulary is not None
    torch.testing.assert_close(segmenter.vocabulary[5, 0], pole, rtol=1e-5, atol=1e-6)
    assert scores.shape == (1, 19, 64, 64)
    assert torch.equal(segmenter.mask_decoder.classify.void, state["void_embedding.weight"])
    if ensemble:
        assert torch.equal(
            segmenter.ensemble.head.project.mlp.fc1.weight,  # type: ignore[union-attr]
            state[f"{CLIP}visual.head.mlp.fc1.weight"],
        )
    again = to_official(tmp_path / "run")
    assert again.keys() == state.keys()
    assert all(torch.equal(again[n], t) for n, t in state.items())
    if not ensemble:  # the same weights know any names
        own = {"classes": ["crane", {"name": "mast", "synonyms": ["pole", "poles"]}]}
        classes = label_set(own, "own")
        import_checkpoint(tmp_path / "x.pth", out=tmp_path / "two", recipe=small, classes=classes)
        two = load_run(tmp_path / "two")[1].vocabulary
        assert two is not None
        assert two.shape == (2, 2, 32)
        torch.testing.assert_close(two[1, 0], pole, rtol=1e-5, atol=1e-6)


def test_every_fault_is_named_and_nothing_is_written(small: dict[str, Tensor], tmp_path: Path) -> None:
    state = dict(small)
    gone = f"{CLIP}visual.trunk.stages.2.blocks.3.gamma"
    del state[gone], state["void_embedding.weight"]
    state["sem_seg_head.predictor.surplus.weight"] = torch.zeros(1)
    state["surplus"] = torch.zeros(1)
    state[LINEAR1] = state[LINEAR1].t()
    with pytest.raises(CloudsError) as caught:
        import_checkpoint(save(state, tmp_path / "x.pth"), out=tmp_path / "run", recipe=CONVNEXT_RECIPE)
    assert set(caught.value.message.splitlines()[1:]) == {
        "2 missing:",
        f"  {gone}",
        "  void_embedding.weight",
        "2 unexpected:",
        "  sem_seg_head.predictor.surplus.weight",
        "  surplus",
        "1 of another shape:",
        f"  {LINEAR1}: [32, 64], not [64, 32] (transposed)",
    }
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_teacher_and_sam_are_dropped_and_said_so(small: dict[str, Tensor], tmp_path: Path) -> None:
    state = {**small, "sem_seg_head_ema.a": torch.zeros(2), "sam.sam.b": torch.zeros(2)}
    path = save({"state_dict": state}, tmp_path / "x.pth")
    result = import_checkpoint(path, out=tmp_path / "run", recipe=CONVNEXT_RECIPE)
    assert result["dropped"] == ["sam.sam.b", "sem_seg_head_ema.a"]
    assert to_official(tmp_path / "run").keys() == small.keys()


def test_the_old_name_of_the_queries_is_understood_and_given_back(
    small: dict[str, Tensor], tmp_path: Path
) -> None:
    old = f"{PREDICTOR}static_query.weight"
    state = {n.replace("query_feat", "static_query"): t for n, t in small.items()}
    save_file(state, tmp_path / "x.safetensors")
    result = import_checkpoint(tmp_path / "x.safetensors", out=tmp_path / "run", recipe=CONVNEXT_RECIPE)
    assert result["renamed"] == {f"{PREDICTOR}query_feat.weight": old}
    assert torch.equal(to_official(tmp_path / "run")[old], state[old])


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_mask2former_head_goes_over_a_backbone_of_ours(
    small: dict[str, Tensor], tmp_path: Path, protocol: int
) -> None:
    arrays = {n: t.numpy() for n, t in small.items() if n.startswith("sem_seg_head.")}
    arrays["criterion.empty_weight"] = small["criterion.empty_weight"].numpy()
    foreign = {
        "backbone.stem.conv1.weight": np.zeros((4, 3, 7, 7), np.float32),
        "backbone.res2.0.x": np.ones(3),
    }
    content = {"model": {**foreign, **arrays}, "__author__": "someone", "matching_heuristics": True}
    path = tmp_path / "model_final.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(CloudsError, match=re.escape("backbone.stem.conv1.weight")) as caught:
        import_checkpoint(path, out=tmp_path / "run", recipe=CONVNEXT_RECIPE)
    assert "--skip-backbone" in caught.value.hint
    with pytest.raises(CloudsError, match="has no supported backbone"):
        import_checkpoint(path, out=tmp_path / "run", skip_backbone=True)
    result = import_checkpoint(path, out=tmp_path / "run", recipe=CONVNEXT_RECIPE, skip_backbone=True)
    assert result["skipped"] == list(foreign)
    _, segmenter = load_run(tmp_path / "run")
    assert segmenter.backbone.weights == "random"
    assert torch.equal(segmenter.pixel_decoder.layers[0].expand.weight, small[LINEAR1])
    again = to_official(tmp_path / "run")
    assert {n: t.tolist() for n, t in again.items()} == {n: a.tolist() for n, a in arrays.items()}


def test_other_classes_than_cityscapes_are_explained(small: dict[str, Tensor], tmp_path: Path) -> None:
    state = {**small, f"{PREDICTOR}class_embed.weight": torch.zeros(151, 32)}
    with pytest.raises(CloudsError, match=r"class_embed.weight: \[151, 32\], not \[20, 32\]") as caught:
        import_checkpoint(save(state, tmp_path / "x.pth"), out=tmp_path / "run", recipe=CONVNEXT_RECIPE)
    assert "150 classes" in caught.value.hint


def test_a_head_of_other_classes_is_imported_with_their_set(small: dict[str, Tensor], tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    rows, bias = f"{PREDICTOR}class_embed.weight", f"{PREDICTOR}class_embed.bias"
    state = {**small, rows: torch.randn(66, 32, generator=generator), bias: torch.zeros(66)}
    state["criterion.empty_weight"] = torch.ones(66)
    path = save(state, tmp_path / "x.pth")
    given: dict[str, Any] = {"out": tmp_path / "run", "recipe": CONVNEXT_RECIPE}
    with pytest.raises(CloudsError) as caught:
        import_checkpoint(path, **given)
    assert "--classes mapillary_v1_2" in caught.value.hint
    result = import_checkpoint(path, **given, classes="mapillary_v1_2")
    assert result["label_set"] == "mapillary_v1_2"
    made, segmenter = load_run(tmp_path / "run")
    assert made.data.classes.names[55] == "car"
    assert torch.equal(segmenter.mask_decoder.classify.weight, state[rows])
    assert torch.equal(to_official(tmp_path / "run")[rows], state[rows])
    path = tmp_path / "two.yaml"
    path.write_text("classes: [a, b]\n", encoding="utf-8")
    with pytest.raises(CloudsError, match=r"\[66, 32\], not \[3, 32\]"):
        import_checkpoint(tmp_path / "x.pth", **{**given, "out": tmp_path / "other"}, classes=path)


def test_heads_that_are_not_ours_are_told_apart(small: dict[str, Tensor]) -> None:
    with pytest.raises(CloudsError, match="Bis"):
        detect_head({**small, f"{PREDICTOR}_mask_pooling_proj.0.weight": None})
    with pytest.raises(CloudsError, match="not one of CLOUDS"):
        detect_head({"conv1.weight": None})
    with pytest.raises(CloudsError, match="no published CLIP"):
        detect_backbone(convnext_shapes())


def test_a_recipe_of_another_model_is_refused(small: dict[str, Tensor], tmp_path: Path) -> None:
    path = save(small, tmp_path / "x.pth")
    model = CONVNEXT_RECIPE.model
    for backbone, message in (
        (BackboneConfig(), "`efficientnet_lite0` is not one"),
        (BackboneConfig(name="open_clip/RN50", options=RESNET), "missing"),
        (model.backbone.model_copy(update={"adapter": {"kind": "lora"}}), "`lora` adapter"),
    ):
        changed = {"model": {**model.model_dump(), "backbone": BackboneConfig.model_validate(dict(backbone))}}
        other = Recipe.model_validate({**CONVNEXT_RECIPE.model_dump(), **changed})
        with pytest.raises(CloudsError, match=message):
            import_checkpoint(path, out=tmp_path / "run", recipe=other)
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_trained_here_has_nothing_to_give_back(small_run: Path) -> None:
    with pytest.raises(CloudsError, match="not imported"):
        to_official(small_run)
