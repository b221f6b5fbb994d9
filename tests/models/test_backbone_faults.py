from __future__ import annotations

import pytest

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones import build_backbone
from clouds_deploy.models.libraries import library
from tests.models.backbone_cases import CASES


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

    library(module.partition(".")[0])
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
    assert "clouds-deploy[generate]" in caught.value.hint
