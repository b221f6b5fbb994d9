from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch

from clouds_deploy.config.model import (
    BackboneConfig,
    MaskDecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
)
from clouds_deploy.models.backbones import build_backbone, load_clip
from clouds_deploy.models.backbones.open_clip import clip_backbone
from clouds_deploy.models.backbones.positions import cubic_weights, resample
from clouds_deploy.models.backbones.segformer import new_name
from clouds_deploy.models.clouds.segmenter import Segmenter
from tests.models.backbone_cases import CASES, HEIGHT, WIDTH, Case, build, close, every, stir


@every
def test_strides_channels_and_normalisation(case: Case) -> None:
    backbone = build(case)
    assert backbone.channels == case.channels
    assert backbone.weights == "random"
    assert float(backbone.mean.flatten()[0]) == pytest.approx(case.mean)
    maps = backbone(backbone.normalize(torch.rand(2, 3, HEIGHT, WIDTH) * 255))
    for level, feature in enumerate(maps):
        stride = 4 * 2**level
        assert feature.shape == (2, case.channels[level], HEIGHT // stride, WIDTH // stride)
        assert torch.isfinite(feature).all()


@every
def test_frozen_trunk_is_pinned_and_gets_no_gradient(case: Case) -> None:
    backbone = build(case).train()
    assert not any(module.training for module in backbone.trunk.modules())
    assert not any(parameter.requires_grad for parameter in backbone.trunk.parameters())
    before = copy.deepcopy(backbone.trunk.state_dict())
    maps = backbone(torch.randn(2, 3, HEIGHT, WIDTH))
    if backbone.neck is None:
        assert not any(feature.requires_grad for feature in maps)
        assert not backbone.training
    else:
        sum(feature.square().mean() for feature in maps).backward()
        assert backbone.neck.training
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in backbone.neck.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.trunk.state_dict().items())


@every
def test_trainable_trunk_trains(case: Case) -> None:
    backbone = build(case, trainable=True)
    assert backbone.training
    assert backbone.trunk.training
    maps = backbone(torch.randn(2, 3, HEIGHT, WIDTH))
    sum((feature * torch.randn_like(feature)).sum() for feature in maps).backward()
    missing = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert not backbone.eval().trunk.training


@every
def test_copies_pickles_and_state_give_the_same_maps(case: Case, tmp_path: Path) -> None:
    backbone = build(case)
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    expected = backbone(image)
    torch.save(backbone.state_dict(), tmp_path / "whole.pth")
    torch.save(backbone.trunk.state_dict(), tmp_path / "trunk.pth")
    other = build_backbone(case.config)
    other.load_state_dict(torch.load(tmp_path / "whole.pth", weights_only=True))
    for same in (copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone)), other):
        assert all(torch.equal(a, b) for a, b in zip(same(image), expected, strict=True))
    loaded = build_backbone(case.config.model_copy(update={"weights": str(tmp_path / "trunk.pth")}))
    assert loaded.weights == "file trunk.pth"
    tensors = backbone.trunk.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in loaded.trunk.state_dict().items())


@pytest.mark.parametrize("name", ["dinov2", "mit"])
def test_any_size_inside_a_segmenter(name: str) -> None:
    model = ModelConfig(
        width=32,
        backbone=CASES[name].config,
        pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
        mask_decoder=MaskDecoderConfig(queries=8, layers=1, heads=4, feedforward=64),
    )
    segmenter = Segmenter(model, build(CASES[name])).eval()
    with torch.no_grad():
        assert segmenter.scores(torch.rand(1, 3, 70, 101) * 255).shape == (1, 19, 70, 101)


# Parity with the libraries


@pytest.mark.parametrize("name", ["clip_convnext", "clip_resnet", "clip_eva02"])
def test_clip_maps_lead_to_open_clips_own_embedding(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    clip = load_clip(case.config)
    stir(clip.model)
    model = clip.model.eval()
    backbone = clip_backbone(case.config, clip)
    assert clip.model.visual is model.visual
    size = case.options["vision_cfg"]["image_size"]
    image = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = model.encode_image(image)
        if name == "clip_convnext":
            mine = model.visual.head(model.visual.trunk.head(backbone(image)[-1]))
        elif name == "clip_resnet":
            mine = model.visual.attnpool(backbone(image)[-1])
        else:
            mine = model.visual.head(model.visual.trunk.forward_head(backbone.trunk(image)))
    assert close(mine, expected)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_reg4", "dinov3", "timm_vit"])
def test_tokens_equal_timms_on_the_native_grid(name: str) -> None:
    import timm

    from clouds_deploy.models.backbones.timm_models import ALIASES

    case = CASES[name]
    backbone = build(case)
    timm_name = ALIASES.get(case.name, case.name.removeprefix("timm/"))
    theirs = timm.create_model(timm_name, num_classes=0, **case.options).eval()
    theirs.load_state_dict(backbone.trunk.state_dict())
    side = theirs.patch_embed.img_size[0]
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = theirs.forward_features(image)
        assert close(backbone.trunk(image), expected)
        tokens = expected[:, theirs.num_prefix_tokens :].transpose(1, 2)
        grid = side // theirs.patch_embed.patch_size[0]
        if backbone.trunk.patch == 16:  # no resizing inside
            assert close(backbone(image)[2], tokens.reshape(2, -1, grid, grid))


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "timm_vit"])
def test_tokens_equal_timms_on_other_grids(name: str) -> None:
    """timm's dynamic sizes, with its antialiased cubic resize of the position embedding."""
    import timm

    from clouds_deploy.models.backbones.timm_models import ALIASES

    case = CASES[name]
    backbone = build(case)
    timm_name = ALIASES.get(case.name, case.name.removeprefix("timm/"))
    theirs = timm.create_model(timm_name, num_classes=0, dynamic_img_size=True, **case.options).eval()
    theirs.load_state_dict(backbone.trunk.state_dict())
    patch = backbone.trunk.patch
    for rows, columns in ((3, 7), (5, 2)):
        image = torch.randn(1, 3, rows * patch, columns * patch)
        with torch.no_grad():
            assert close(backbone.trunk(image), theirs.forward_features(image))


def test_patch_14_sees_the_image_resized_by_14_16() -> None:
    backbone = build(CASES["dinov2"])
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    small = torch.nn.functional.interpolate(image, size=(56, 84), mode="bilinear", align_corners=False)
    with torch.no_grad():
        tokens = backbone.trunk(small)[:, 1:].transpose(1, 2).reshape(1, -1, HEIGHT // 16, WIDTH // 16)
        assert close(backbone(image)[2], tokens)


@pytest.mark.parametrize(
    ("old", "new"), [((4, 4), (4, 4)), ((4, 4), (7, 3)), ((16, 16), (5, 9)), ((9, 6), (32, 64))]
)
def test_positions_resample_as_pytorch_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    embedding = torch.randn(1, 2 + old[0] * old[1], 5)
    mine = resample(embedding, old, new)
    grid = embedding[:, 2:].reshape(1, *old, 5).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True)
    expected = torch.cat((embedding[:, :2], grid.flatten(2).transpose(1, 2)), dim=1)
    assert close(mine, expected)
    assert (mine is embedding) == (old == new)
    assert all(sum(row) == pytest.approx(1) for row in cubic_weights(old[0], new[0]))


def test_mix_transformer_equals_transformers() -> None:
    from transformers import SegformerConfig, SegformerModel

    case = CASES["mit"]
    backbone = build(case)
    theirs = SegformerModel(SegformerConfig(**case.options)).eval()
    theirs.load_state_dict(backbone.trunk.state_dict())
    image = torch.randn(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = theirs(image, output_hidden_states=True).hidden_states
        assert all(close(a, b) for a, b in zip(backbone(image), expected, strict=True))


@pytest.mark.parametrize("size", ["b0", "b1", "b2", "b3", "b4", "b5"])
def test_mix_transformers_have_the_published_size(size: str) -> None:
    """Millions of encoder parameters, Xie et al. 2021, table 6, without the classifier."""
    millions = {"b0": 3.4, "b1": 13.1, "b2": 24.2, "b3": 44.0, "b4": 60.8, "b5": 81.4}[size]
    with torch.device("meta"):
        from transformers import SegformerConfig, SegformerModel

        from clouds_deploy.models.backbones.segformer import SIZES

        depths, widths = SIZES[f"mit_{size}"]
        trunk = SegformerModel(SegformerConfig(depths=depths, hidden_sizes=widths))
    assert sum(p.numel() for p in trunk.parameters()) == pytest.approx(millions * 1e6, rel=0.03)


def test_mix_transformer_takes_the_names_of_the_hubs_files() -> None:
    assert (
        new_name("segformer.encoder.patch_embeddings.0.proj.weight")
        == "stages.0.patch_embeddings.proj.weight"
    )
    assert (
        new_name("segformer.encoder.block.1.0.attention.self.sr.weight")
        == "stages.1.blocks.0.attention.sequence_reduction.sequence_reduction.weight"
    )
    own = build(CASES["mit"]).trunk.state_dict()
    old = {
        "stages.0.blocks.0.attention.q_proj.weight": "encoder.block.0.0.attention.self.query.weight",
        "stages.0.blocks.0.attention.sequence_reduction.layer_norm.bias": (
            "encoder.block.0.0.attention.self.layer_norm.bias"
        ),
        "stages.2.blocks.0.attention.o_proj.bias": "segformer.encoder.block.2.0.attention.output.dense.bias",
        "stages.1.blocks.0.mlp.fc2.weight": "encoder.block.1.0.mlp.dense2.weight",
        "stages.1.blocks.0.mlp.dwconv.dwconv.weight": "encoder.block.1.0.mlp.dwconv.dwconv.weight",
        "stages.3.blocks.0.layernorm_before.weight": "encoder.block.3.0.layer_norm_1.weight",
        "stages.3.layer_norm.weight": "encoder.layer_norm.3.weight",
    }
    for name, theirs in old.items():
        assert name in own
        assert new_name(theirs) == name
        assert new_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["timm_resnet", "timm_convnext", "dinov3_convnext", pytest.param("timm_lite", marks=pytest.mark.slow)],
)
def test_timm_maps_equal_its_feature_extractor_and_take_its_files(name: str, tmp_path: Path) -> None:
    """A file saved from timm's classifier, with its names, gives the maps of timm's features_only."""
    import timm

    from clouds_deploy.models.backbones.timm_models import ALIASES

    case = CASES[name]
    timm_name = ALIASES.get(case.name, case.name.removeprefix("timm/"))
    torch.manual_seed(0)
    classifier = timm.create_model(timm_name, **case.options).eval()
    stir(classifier)
    torch.save(classifier.state_dict(), tmp_path / "timm.pth")
    backbone = build_backbone(case.config.model_copy(update={"weights": str(tmp_path / "timm.pth")}))
    theirs = timm.create_model(timm_name, features_only=True, **case.options).eval()
    theirs.load_state_dict(backbone.trunk.state_dict(), strict=False)
    image = torch.randn(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        mine, expected = backbone(image), theirs(image)[-4:]
        last = classifier.forward_intermediates(image, intermediates_only=True)[-1]
    assert all(close(a, b) for a, b in zip(mine, expected, strict=True))
    assert close(mine[-1], last)


def test_batch_statistics_stand_still_in_training() -> None:
    """An image's features must not depend on the others of its batch, nor on how many processes share it."""
    torch.manual_seed(1)
    backbone = build_backbone(
        BackboneConfig(name="efficientnet_lite0", weights="random", trainable=True)
    ).train()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in backbone.named_buffers()}
    both, first = backbone(images), backbone(images[:1])
    for pair, alone in zip(both, first, strict=True):
        assert torch.allclose(pair[:1], alone, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in backbone.named_buffers())
