from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clouds_deploy.config import BackboneConfig, MaskDecoderConfig, ModelConfig, PixelDecoderConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones import CLIP_MEAN, Backbone, build_backbone, load_clip
from clouds_deploy.models.backbones.open_clip import clip_backbone
from clouds_deploy.models.backbones.positions import cubic_weights, resample
from clouds_deploy.models.backbones.segformer import new_name
from clouds_deploy.models.segmenter import Segmenter

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
HEIGHT, WIDTH = 64, 96
IMAGENET = 123.675


@dataclass(frozen=True)
class Case:
    name: str
    channels: tuple[int, int, int, int]
    mean: float
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> BackboneConfig:
        return BackboneConfig(name=self.name, weights="random", options=self.options)


def _timm_clip(model: str, pool: str, projection: str | None, size: int) -> dict[str, Any]:
    vision = {
        "timm_model_name": model,
        "timm_model_pretrained": False,
        "timm_pool": pool,
        "timm_proj": projection,
        "image_size": size,
    }
    return {"vision_cfg": vision, "text_cfg": TEXT}


SMALL_VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3}
SMALL_CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (16, 32, 48, 64)}
CASES = {
    "clip_convnext": Case(
        "open_clip/convnext_base",
        (40, 80, 160, 320),
        CLIP_MEAN[0],
        _timm_clip("convnext_atto", "", "mlp", 64),
    ),
    "clip_resnet": Case(
        "open_clip/RN50",
        (64, 128, 256, 512),
        CLIP_MEAN[0],
        {
            "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "patch_size": None},
            "text_cfg": TEXT,
        },
    ),
    "clip_eva02": Case(
        "open_clip/EVA02-L-14",
        (48, 96, 192, 192),
        CLIP_MEAN[0],
        _timm_clip("eva02_tiny_patch14_224", "token", None, 224),
    ),
    "dinov2": Case("dinov2/s", (12, 24, 48, 48), IMAGENET, {**SMALL_VIT, "img_size": 56}),
    "dinov2_reg4": Case("dinov2/b_reg4", (12, 24, 48, 48), IMAGENET, {**SMALL_VIT, "img_size": 56}),
    "dinov3": Case("dinov3/s", (12, 24, 48, 48), IMAGENET, SMALL_VIT),
    "dinov3_convnext": Case("dinov3/convnext_tiny", (16, 32, 48, 64), IMAGENET, SMALL_CONVNEXT),
    "mit": Case(
        "segformer/mit_b0",
        (16, 32, 64, 64),
        IMAGENET,
        {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 32, 64, 64]},
    ),
    "timm_resnet": Case(
        "timm/resnet18", (16, 32, 64, 128), IMAGENET, {"layers": (1, 1, 1, 1), "channels": (16, 32, 64, 128)}
    ),
    "timm_convnext": Case("timm/convnext_atto", (16, 32, 48, 64), IMAGENET, SMALL_CONVNEXT),
    "timm_lite": Case("timm/tf_efficientnet_lite0", (24, 40, 112, 320), 127.5),
    "timm_vit": Case("timm/vit_tiny_patch16_224", (12, 24, 48, 48), 127.5, SMALL_VIT),
}
LARGE = ("clip_convnext", "clip_eva02", "timm_lite")  # cannot be made smaller by options


def _marked(name: str, slow: tuple[str, ...]) -> Any:
    return pytest.param(CASES[name], id=name, marks=[pytest.mark.slow] if name in slow else [])


every = pytest.mark.parametrize("case", [_marked(name, LARGE) for name in CASES])


def _build(case: Case, *, trainable: bool = False) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(case.config.model_copy(update={"trainable": trainable}))
    _stir(backbone)
    return backbone


def _stir(module: torch.nn.Module) -> None:
    """Move every parameter away from its start: layer scales of 1e-5 would hide a wrong block."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for name, buffer in module.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.05 * torch.randn_like(buffer))


def _close(mine: Tensor, theirs: Tensor, tolerance: float = 1e-5) -> bool:
    assert mine.shape == theirs.shape
    return bool((mine - theirs).abs().max() <= tolerance * theirs.abs().max())


@every
def test_strides_channels_and_normalisation(case: Case) -> None:
    backbone = _build(case)
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
    backbone = _build(case).train()
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
    backbone = _build(case, trainable=True)
    assert backbone.training
    assert backbone.trunk.training
    maps = backbone(torch.randn(2, 3, HEIGHT, WIDTH))
    sum((feature * torch.randn_like(feature)).sum() for feature in maps).backward()
    missing = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    assert not backbone.eval().trunk.training


@every
def test_copies_pickles_and_state_give_the_same_maps(case: Case, tmp_path: Path) -> None:
    backbone = _build(case)
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
    segmenter = Segmenter(model, _build(CASES[name])).eval()
    with torch.no_grad():
        assert segmenter.scores(torch.rand(1, 3, 70, 101) * 255).shape == (1, 19, 70, 101)


# Parity with the libraries


@pytest.mark.parametrize("name", ["clip_convnext", "clip_resnet", "clip_eva02"])
def test_clip_maps_lead_to_open_clips_own_embedding(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    clip = load_clip(case.config)
    _stir(clip.model)
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
    assert _close(mine, expected)


@pytest.mark.parametrize("name", ["dinov2", "dinov2_reg4", "dinov3", "timm_vit"])
def test_tokens_equal_timms_on_the_native_grid(name: str) -> None:
    import timm

    from clouds_deploy.models.backbones.timm_models import ALIASES

    case = CASES[name]
    backbone = _build(case)
    timm_name = ALIASES.get(case.name, case.name.removeprefix("timm/"))
    theirs = timm.create_model(timm_name, num_classes=0, **case.options).eval()
    theirs.load_state_dict(backbone.trunk.state_dict())
    side = theirs.patch_embed.img_size[0]
    image = torch.randn(2, 3, side, side)
    with torch.no_grad():
        expected = theirs.forward_features(image)
        assert _close(backbone.trunk(image), expected)
        tokens = expected[:, theirs.num_prefix_tokens :].transpose(1, 2)
        grid = side // theirs.patch_embed.patch_size[0]
        if backbone.trunk.patch == 16:  # no resizing inside
            assert _close(backbone(image)[2], tokens.reshape(2, -1, grid, grid))


@pytest.mark.parametrize("name", ["dinov2", "dinov3", "timm_vit"])
def test_tokens_equal_timms_on_other_grids(name: str) -> None:
    """timm's dynamic sizes, with its antialiased cubic resize of the position embedding."""
    import timm

    from clouds_deploy.models.backbones.timm_models import ALIASES

    case = CASES[name]
    backbone = _build(case)
    timm_name = ALIASES.get(case.name, case.name.removeprefix("timm/"))
    theirs = timm.create_model(timm_name, num_classes=0, dynamic_img_size=True, **case.options).eval()
    theirs.load_state_dict(backbone.trunk.state_dict())
    patch = backbone.trunk.patch
    for rows, columns in ((3, 7), (5, 2)):
        image = torch.randn(1, 3, rows * patch, columns * patch)
        with torch.no_grad():
            assert _close(backbone.trunk(image), theirs.forward_features(image))


def test_patch_14_sees_the_image_resized_by_14_16() -> None:
    backbone = _build(CASES["dinov2"])
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    small = torch.nn.functional.interpolate(image, size=(56, 84), mode="bilinear", align_corners=False)
    with torch.no_grad():
        tokens = backbone.trunk(small)[:, 1:].transpose(1, 2).reshape(1, -1, HEIGHT // 16, WIDTH // 16)
        assert _close(backbone(image)[2], tokens)


@pytest.mark.parametrize(
    ("old", "new"), [((4, 4), (4, 4)), ((4, 4), (7, 3)), ((16, 16), (5, 9)), ((9, 6), (32, 64))]
)
def test_positions_resample_as_pytorch_does(old: tuple[int, int], new: tuple[int, int]) -> None:
    embedding = torch.randn(1, 2 + old[0] * old[1], 5)
    mine = resample(embedding, old, new)
    grid = embedding[:, 2:].reshape(1, *old, 5).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid, size=new, mode="bicubic", antialias=True)
    expected = torch.cat((embedding[:, :2], grid.flatten(2).transpose(1, 2)), dim=1)
    assert _close(mine, expected)
    assert (mine is embedding) == (old == new)
    assert all(sum(row) == pytest.approx(1) for row in cubic_weights(old[0], new[0]))


def test_mix_transformer_equals_transformers() -> None:
    from transformers import SegformerConfig, SegformerModel

    case = CASES["mit"]
    backbone = _build(case)
    theirs = SegformerModel(SegformerConfig(**case.options)).eval()
    theirs.load_state_dict(backbone.trunk.state_dict())
    image = torch.randn(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        expected = theirs(image, output_hidden_states=True).hidden_states
        assert all(_close(a, b) for a, b in zip(backbone(image), expected, strict=True))


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
    own = _build(CASES["mit"]).trunk.state_dict()
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
    _stir(classifier)
    torch.save(classifier.state_dict(), tmp_path / "timm.pth")
    backbone = build_backbone(case.config.model_copy(update={"weights": str(tmp_path / "timm.pth")}))
    theirs = timm.create_model(timm_name, features_only=True, **case.options).eval()
    theirs.load_state_dict(backbone.trunk.state_dict(), strict=False)
    image = torch.randn(2, 3, HEIGHT, WIDTH)
    with torch.no_grad():
        mine, expected = backbone(image), theirs(image)[-4:]
        last = classifier.forward_intermediates(image, intermediates_only=True)[-1]
    assert all(_close(a, b) for a, b in zip(mine, expected, strict=True))
    assert _close(mine[-1], last)


# Errors


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (BackboneConfig(name="timm/resnet5000", weights="random"), "timm has no model", "did you mean"),
        (BackboneConfig(name="timm/resnet50.nowhere", weights="random"), "no weights `nowhere`", "known"),
        (BackboneConfig(name="timm/levit_128s", weights="random"), "timm", "o"),
        (BackboneConfig(name="segformer/mit_b6", weights="random"), "no Mix Transformer", "mit_b"),
        (BackboneConfig(name="dinov2/x", weights="random"), "no backbone `dinov2/x`", "dinov2/"),
        (BackboneConfig(name="timm/resnet18", weights="gone.pth"), "gone.pth", "`random`"),
    ],
)
def test_wrong_names_are_explained(config: BackboneConfig, message: str, hint: str) -> None:
    with pytest.raises(CloudsError) as caught:
        build_backbone(config)
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("name", "module", "function", "place"),
    [
        ("dinov2/s", "timm", "create_model", "timm/vit_small_patch14_dinov2.lvd142m"),
        ("timm/resnet18", "timm", "create_model", "timm/resnet18"),
        ("segformer/mit_b5", "transformers.SegformerModel", "from_pretrained", "nvidia/mit-b5"),
        ("open_clip/EVA02-L-14", "open_clip", "create_model", "merged2b_s4b_b131k"),
    ],
)
def test_a_hub_that_cannot_be_reached_is_named(
    name: str, module: str, function: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_hub(*_: object, **__: object) -> None:
        raise OSError("cannot connect\nlong story")

    __import__(module.partition(".")[0])
    monkeypatch.setattr(f"{module}.{function}", no_hub)
    with pytest.raises(CloudsError, match="cannot be had: cannot connect") as caught:
        build_backbone(BackboneConfig(name=name))
    assert place in caught.value.message
    assert "weights=PATH" in caught.value.hint


def test_a_missing_transformers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CloudsError, match="not installed") as caught:
        build_backbone(CASES["mit"].config)
    assert "pip install transformers" in caught.value.hint


# Export


class _Maps(torch.nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(self.backbone.normalize(image))


def export_maps(backbone: Backbone) -> Any:
    batch = torch.export.Dim("batch", min=1, max=64)
    return torch.onnx.export(
        _Maps(backbone).eval(),
        (torch.zeros(2, 3, HEIGHT, WIDTH),),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        dynamic_shapes={"image": {0: batch}},
        verbose=False,
    )


def _exports(case: Case) -> None:
    import onnxruntime

    backbone = _build(case)
    program = export_maps(backbone)
    model = program.model_proto
    resizes = [node for node in model.graph.node if node.op_type == "Resize"]
    assert len(resizes) == (getattr(backbone.trunk, "patch", 16) != 16)  # the image, never the positions
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.rand(3, 3, HEIGHT, WIDTH) * 255
    with torch.no_grad():
        expected = _Maps(backbone)(image)
    for theirs, mine in zip(session.run(None, {"image": image.numpy()}), expected, strict=True):
        assert _close(torch.from_numpy(theirs), mine, 1e-4)


QUICK = ("clip_resnet", "dinov2")
LONG = tuple(name for name in CASES if name not in QUICK)


@pytest.mark.parametrize("case", [_marked(name, LONG) for name in CASES])
def test_exports_to_onnx(case: Case) -> None:
    _exports(case)
