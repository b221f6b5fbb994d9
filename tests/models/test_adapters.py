from __future__ import annotations

import copy
import pickle
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from clouds_deploy.config.model import (
    AdapterConfig,
    BackboneConfig,
    MaskDecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
)
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones import Backbone, build_backbone
from clouds_deploy.models.clouds.adapters import LowRankConv2d, LowRankLinear, Rein, attach, merge_adapters
from clouds_deploy.models.clouds.segmenter import Segmenter

HEIGHT, WIDTH = 64, 96
VIT = BackboneConfig(
    name="dinov2/s", weights="random", options={"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 56}
)
CONVNEXT = BackboneConfig(
    name="timm/convnext_atto", weights="random", options={"depths": (1, 1, 1, 1), "dims": (16, 24, 32, 48)}
)
RESNET = BackboneConfig(
    name="timm/resnet18",
    weights="random",
    options={"layers": (1, 1, 1, 1), "channels": (16, 24, 32, 48)},
)
TRUNKS = {"vit": VIT, "convnext": CONVNEXT, "resnet": RESNET}
LORA = AdapterConfig(kind="lora", rank=4, alpha=8)
SOMA = AdapterConfig(kind="soma", rank=4)
REIN = AdapterConfig(kind="rein", rank=4, tokens=7)
EVERYWHERE = "."  # a regular expression that every layer matches: grouped and strided convolutions too
trunks = pytest.mark.parametrize("config", TRUNKS.values(), ids=TRUNKS.keys())
kinds = pytest.mark.parametrize("adapter", [LORA, SOMA, REIN], ids=["lora", "soma", "rein"])
low_rank = pytest.mark.parametrize("adapter", [LORA, SOMA], ids=["lora", "soma"])


def _plain(config: BackboneConfig) -> Backbone:
    torch.manual_seed(0)
    backbone = build_backbone(config)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return backbone


def _image() -> Tensor:
    return torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def _maps(backbone: Backbone) -> tuple[Tensor, ...]:
    with torch.no_grad():
        return backbone(_image())


def _difference(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...]) -> float:
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(mine, theirs, strict=True))


def _move(backbone: Backbone) -> None:
    """Give every adapter parameter a value that training could have given it."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "adapter" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))


@trunks
@kinds
def test_starts_as_the_plain_backbone(config: BackboneConfig, adapter: AdapterConfig) -> None:
    backbone = _plain(config)
    expected = _maps(backbone)
    attach(backbone, adapter.model_copy(update={"targets": EVERYWHERE}))
    assert _difference(_maps(backbone), expected) < 1e-6 * (10 if adapter.kind == "soma" else 1)
    _move(backbone)
    assert _difference(_maps(backbone), expected) > 1e-3


def test_soma_splits_off_the_smallest_singular_components() -> None:
    backbone = _plain(VIT)
    weights = {
        n: m.weight.detach().clone() for n, m in backbone.trunk.named_modules() if type(m) is nn.Linear
    }
    attach(backbone, SOMA)
    for name, module in backbone.trunk.named_modules():
        if not isinstance(module, LowRankLinear):
            continue
        whole, frozen = weights[name], module._parameters["weight"]
        assert frozen is not None
        assert torch.allclose(module.weight, whole, atol=1e-6 * float(whole.abs().max()), rtol=0)
        values = torch.linalg.svdvals(whole)
        kept = torch.linalg.svdvals(frozen)
        assert torch.allclose(kept[:-4], values[:-4], atol=1e-5)
        assert kept[-4:].abs().max() < 1e-5
        assert torch.allclose(torch.linalg.svdvals(whole - frozen)[:4], values[-4:], atol=1e-5)


@trunks
@low_rank
def test_merged_equals_unmerged_and_is_the_plain_model(
    config: BackboneConfig, adapter: AdapterConfig
) -> None:
    plain = _plain(config)
    backbone = attach(copy.deepcopy(plain), adapter.model_copy(update={"targets": EVERYWHERE}))
    layers = [m for m in backbone.modules() if isinstance(m, (LowRankLinear, LowRankConv2d))]
    assert len(layers) == sum(isinstance(m, (nn.Linear, nn.Conv2d)) for m in backbone.trunk.modules())
    _move(backbone)
    unmerged = _maps(backbone)
    assert merge_adapters(backbone) == len(layers)
    assert _difference(_maps(backbone), unmerged) <= 1e-5
    assert [(n, type(m)) for n, m in backbone.named_modules()] == [
        (n, type(m)) for n, m in plain.named_modules()
    ]
    assert list(backbone.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in backbone.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert not backbone.adapted
    assert merge_adapters(backbone) == 0


@trunks
@kinds
def test_gradients_reach_only_adapters(config: BackboneConfig, adapter: AdapterConfig) -> None:
    backbone = attach(_plain(config), adapter).train()
    _move(backbone)
    assert not any(module.training for module in backbone.trunk.modules())
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    sum((m * torch.randn_like(m)).sum() for m in backbone(_image())).backward()
    reached = {
        name for name, p in backbone.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    wanted = {
        name for name, _ in backbone.named_parameters() if "adapter" in name or name.startswith("neck.")
    }
    assert reached == wanted
    assert all(torch.equal(before[name], tensor) for name, tensor in backbone.state_dict().items())
    assert {name for name, p in backbone.named_parameters() if p.requires_grad} >= wanted


@kinds
def test_segmenter_counts_adapters_and_head_only(adapter: AdapterConfig) -> None:
    def build(kind: AdapterConfig) -> Segmenter:
        config = ModelConfig(
            width=32,
            backbone=CONVNEXT.model_copy(update={"adapter": kind}),
            pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
            mask_decoder=MaskDecoderConfig(queries=8, layers=1, heads=4, feedforward=64),
        )
        return Segmenter(config, build_backbone(config.backbone))

    plain, adapted = build(AdapterConfig()), build(adapter)
    extra = sum(p.numel() for name, p in adapted.backbone.named_parameters() if "adapter" in name)
    assert extra > 0
    assert adapted.trainable_parameters() == plain.trainable_parameters() + extra


@kinds
def test_saves_loads_copies_and_pickles(adapter: AdapterConfig, tmp_path: Path) -> None:
    from clouds_deploy.models.clouds.store import read_tensors, write_tensors

    config = VIT.model_copy(update={"adapter": adapter})
    backbone = build_backbone(config)
    _move(backbone)
    expected = _maps(backbone)
    write_tensors(tmp_path / "a.safetensors", backbone.state_dict())
    other = build_backbone(config)
    other.load_state_dict(read_tensors(tmp_path / "a.safetensors"))
    for same in (other, copy.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
        assert _difference(_maps(same), expected) == 0
    apart = copy.deepcopy(backbone)
    _move(apart)  # a copy has adapters of its own
    assert _difference(_maps(backbone), expected) == 0
    assert _difference(_maps(apart), expected) > 0


@kinds
@pytest.mark.parametrize("config", [VIT, CONVNEXT], ids=["vit", "convnext"])
def test_learning_reduces_a_toy_loss(config: BackboneConfig, adapter: AdapterConfig) -> None:
    backbone = attach(_plain(config), adapter)
    target = [
        m + 0.3 * m.std() * torch.randn_like(m).mean(dim=(0, 2, 3), keepdim=True) for m in _maps(backbone)
    ]
    parameters = [p for name, p in backbone.named_parameters() if "adapter" in name]
    optimizer = torch.optim.Adam(parameters, lr=3e-3)
    losses = []
    for _ in range(12):
        loss = sum(
            ((a - b) / b.std()).square().mean() for a, b in zip(backbone(_image()), target, strict=True)
        )
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]


def test_rein_follows_its_equations() -> None:
    rein = Rein([6, 6], tokens=5, rank=2)
    with torch.no_grad():
        for parameter in rein.parameters():
            parameter.normal_()
    f = torch.randn(1, 4, 6)
    tokens = rein.left[1] @ rein.right[1]
    mapped, shared = rein.token_map["6"], rein.feature_map["6"]
    expected = torch.empty_like(f)
    for n in range(4):
        scores = torch.tensor([float((f[0, n] @ t).detach()) for t in tokens]) / 6**0.5
        share = scores.exp() / scores.exp().sum()
        delta = sum(share[k] * (mapped.weight @ tokens[k] + mapped.bias) for k in range(1, 5))
        expected[0, n] = f[0, n] + shared.weight @ (delta + f[0, n]) + shared.bias
    assert torch.allclose(rein.refine(1, f), expected, atol=1e-4)
    maps = torch.randn(1, 6, 2, 2)
    pixels = rein.refine(0, maps.flatten(2).transpose(1, 2))
    assert torch.equal(rein.after_block(0, nn.Identity(), (), maps).flatten(2).transpose(1, 2), pixels)


def _nodes(backbone: Backbone) -> Counter[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            backbone.eval(),
            (torch.zeros(2, 3, HEIGHT, WIDTH),),
            dynamo=True,
            opset_version=18,
            input_names=["image"],
            dynamic_shapes={"image": {0: torch.export.Dim("batch", min=1, max=64)}},
            verbose=False,
        )
    return Counter(node.op_type for node in program.model.graph)


@pytest.mark.parametrize(
    "config",
    [pytest.param(VIT, id="vit", marks=pytest.mark.slow), pytest.param(CONVNEXT, id="convnext")],
)
def test_merged_exports_exactly_the_plain_graph(config: BackboneConfig) -> None:
    plain = _plain(config)
    expected = _nodes(copy.deepcopy(plain))
    for adapter in (LORA, SOMA):
        merged = attach(copy.deepcopy(plain), adapter)
        _move(merged)
        merge_adapters(merged)
        assert _nodes(merged) == expected


@pytest.mark.slow
@kinds
def test_unmerged_compiles_without_graph_breaks(adapter: AdapterConfig) -> None:
    backbone = attach(_plain(VIT), adapter)
    _move(backbone)
    expected = _maps(backbone)
    compiled = torch.compile(backbone, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert _difference(compiled(_image()), expected) <= 1e-5


def test_targets_choose_layers_by_name() -> None:
    backbone = attach(_plain(VIT), LORA.model_copy(update={"targets": r"attn\.qkv$"}))
    adapted = [n for n, m in backbone.trunk.named_modules() if isinstance(m, LowRankLinear)]
    assert adapted == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]


@pytest.mark.parametrize(
    ("config", "adapter", "message"),
    [
        (VIT.model_copy(update={"trainable": True}), LORA, "trainable backbone"),
        (VIT, LORA.model_copy(update={"targets": "nothing"}), "matches no layer"),
        (BackboneConfig(name="timm/vgg11", weights="random", options={}), REIN, "no blocks"),
    ],
)
def test_adapters_that_do_not_fit_are_explained(
    config: BackboneConfig, adapter: AdapterConfig, message: str
) -> None:
    with pytest.raises(CloudsError, match=message):
        build_backbone(config.model_copy(update={"adapter": adapter}))


def test_adapters_do_not_pile_up() -> None:
    backbone = attach(_plain(VIT), LORA)
    with pytest.raises(CloudsError, match="adapters already"):
        attach(backbone, SOMA)


def test_a_wrong_pattern_is_refused_in_the_recipe() -> None:
    with pytest.raises(ValueError, match="no regular expression"):
        AdapterConfig(kind="lora", targets="(")


@kinds
def test_a_model_on_disk_is_filled_without_decompositions(
    adapter: AdapterConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clouds_deploy.models.clouds.store import empty_segmenter, fill

    config = ModelConfig(
        width=32,
        backbone=CONVNEXT.model_copy(update={"adapter": adapter}),
        pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
        mask_decoder=MaskDecoderConfig(queries=8, layers=1, heads=4, feedforward=64),
    )
    segmenter = Segmenter(config, build_backbone(config.backbone))
    _move(segmenter.backbone)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    other = empty_segmenter(config, "elsewhere")
    fill(other, segmenter.state_dict(), "here")
    assert _difference(_maps(other.backbone), _maps(segmenter.backbone)) == 0
