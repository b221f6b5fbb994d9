"""The text head and CLIP's second opinion equal open_clip's own paths under the same random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from clouds_deploy.config.model import (
    BackboneConfig,
    MaskDecoderConfig,
    ModelConfig,
    PixelDecoderConfig,
    TextConfig,
)
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.backbones.open_clip import clip_backbone, clip_tokenizer, load_clip
from clouds_deploy.models.clouds import scores
from clouds_deploy.models.clouds.classifiers import TextClassifier, pool_masks, vocabulary_logits
from clouds_deploy.models.clouds.clip_head import GeometricEnsemble
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter
from clouds_deploy.models.clouds.vocabulary import TEMPLATES, class_synonyms, embed_vocabulary, pad_synonyms

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CONVNEXT = BackboneConfig(
    name="open_clip/convnext_base",
    weights="random",
    options={
        "embed_dim": 24,
        "vision_cfg": {
            "timm_model_name": "convnext_atto",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "mlp",
            "image_size": 64,
        },
        "text_cfg": TEXT,
    },
)
RESNET = BackboneConfig(
    name="open_clip/RN50",
    weights="random",
    options={
        "embed_dim": 24,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64, "patch_size": None},
        "text_cfg": TEXT,
    },
)
TOLERANCE = 1e-5  # relative to the largest magnitude, fp32


def model(backbone: BackboneConfig, **text: Any) -> ModelConfig:
    return ModelConfig(
        backbone=backbone,
        width=32,
        head="text",
        text=TextConfig(**text),
        pixel_decoder=PixelDecoderConfig(layers=1, heads=4, feedforward=64),
        mask_decoder=MaskDecoderConfig(queries=12, layers=2, heads=4, feedforward=64),
    )


def near(ours: torch.Tensor, theirs: torch.Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= TOLERANCE * theirs.abs().max())


@pytest.fixture(scope="module", params=[CONVNEXT, RESNET], ids=["convnext", "resnet"])
def clip(request: pytest.FixtureRequest) -> tuple[BackboneConfig, Any]:
    torch.manual_seed(0)
    loaded = load_clip(request.param).model.eval()
    with torch.no_grad():
        for parameter in loaded.visual.parameters():  # layer scales and biases that matter
            if parameter.dim() == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return request.param, loaded


def test_fourteen_templates() -> None:
    assert len(TEMPLATES) == len(set(TEMPLATES)) == 14


def test_vocabulary_is_the_mean_over_templates(clip: tuple[BackboneConfig, Any]) -> None:
    config, loaded = clip
    tokenizer = clip_tokenizer(config)
    names = class_synonyms()[:4]
    got = embed_vocabulary(loaded, tokenizer, names)
    assert got.shape == (4, 6, 24)
    with torch.no_grad():
        for row, synonyms in enumerate(names):
            for column, name in enumerate(synonyms):
                each = [
                    F.normalize(loaded.encode_text(tokenizer([t.format(name)])), dim=-1) for t in TEMPLATES
                ]
                expected = F.normalize(torch.cat(each).mean(0), dim=0)
                assert (got[row, column] - expected).abs().max() <= 1e-5
            assert torch.equal(got[row, -1], got[row, 0]) or len(synonyms) == 6
    with pytest.raises(CloudsError, match="class 1 of the vocabulary has no name"):
        embed_vocabulary(loaded, tokenizer, [("road",), ()])


def test_the_whole_image_as_mask_is_clips_own_embedding(clip: tuple[BackboneConfig, Any]) -> None:
    """One mask over everything, at CLIP's own size: ConvNeXt gives `encode_image`; ResNet gives CLIP's
    attention pool without the mean among its keys, which is how FC-CLIP pools under masks."""
    config, loaded = clip
    image = torch.randn(2, 3, 64, 64)
    ensemble = GeometricEnsemble(loaded, torch.ones(4, dtype=torch.bool), 0.4, 0.8, only_valid=False)
    with torch.no_grad():
        features = clip_backbone(config, load_like(loaded))(image)
        got = ensemble.head(features[3], torch.ones(2, 3, 2, 2))
        expected = loaded.encode_image(image)
        if hasattr(loaded.visual, "attnpool"):
            expected = attention_pool(loaded.visual.attnpool, features[3])
    for query in range(3):
        assert near(got[:, query], expected)


def attention_pool(pool: Any, features: torch.Tensor) -> torch.Tensor:
    """torch's own multi-head attention under the pool's weights: the mean asks, the pixels answer."""
    place = pool.positional_embedding[:, None]
    pixels = features.flatten(2).permute(2, 0, 1)
    keys = pixels + place[1:]
    mixed, _ = F.multi_head_attention_forward(
        query=pixels.mean(0, keepdim=True) + place[:1],
        key=keys,
        value=keys,
        embed_dim_to_check=keys.shape[-1],
        num_heads=pool.num_heads,
        q_proj_weight=pool.q_proj.weight,
        k_proj_weight=pool.k_proj.weight,
        v_proj_weight=pool.v_proj.weight,
        in_proj_weight=None,
        in_proj_bias=torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=pool.c_proj.weight,
        out_proj_bias=pool.c_proj.bias,
        use_separate_proj_weight=True,
        training=False,
        need_weights=False,
    )
    return mixed[0]


def load_like(loaded: Any) -> Any:
    from clouds_deploy.models.backbones.open_clip import Clip

    return Clip(loaded, "random", ready=True)


def test_an_empty_mask_is_finite(clip: tuple[BackboneConfig, Any]) -> None:
    _, loaded = clip
    ensemble = GeometricEnsemble(loaded, torch.ones(4, dtype=torch.bool), 0.4, 0.8, only_valid=False)
    channels = 320 if hasattr(loaded.visual, "trunk") else 512
    with torch.no_grad():
        assert ensemble.head(torch.randn(1, channels, 2, 2), -torch.ones(1, 2, 2, 2)).isfinite().all()


def test_classifier_follows_its_definition() -> None:
    """Written out query by query: pool, project, embed, compare, best synonym, void last."""
    torch.manual_seed(1)
    head = TextClassifier(32, 24)
    decoded, masks, features = torch.randn(2, 5, 32), torch.randn(2, 5, 8, 8), torch.randn(2, 32, 8, 8)
    masks[0, 0] = -1
    counts = [2, 1, 3]
    names = F.normalize(torch.randn(sum(counts), 24), dim=-1)
    got = head(decoded, masks, features, pad_synonyms(names, counts))
    for b in range(2):
        for q in range(5):
            inside = masks[b, q] > 0
            pooled = features[b][:, inside].mean(1) if inside.any() else torch.zeros(32)
            e = F.normalize(head.embed(head.pool(pooled) + decoded[b, q]), dim=0)
            likeness = head.scale.exp().clamp(max=100) * torch.cat([names @ e, F.normalize(head.void) @ e])
            classes = [part.max() for part in likeness[:-1].split(counts)]
            expected = torch.stack([*classes, likeness[-1]])
            assert torch.allclose(got[b, q], expected, atol=1e-4)


def test_ensemble_follows_its_equation(clip: tuple[BackboneConfig, Any]) -> None:
    _, loaded = clip
    torch.manual_seed(2)
    seen = torch.tensor([True, False, True])
    channels = 320 if hasattr(loaded.visual, "trunk") else 512
    logits, masks = torch.randn(1, 4, 4) * 3, torch.randn(1, 4, 16, 16)
    features = torch.randn(1, channels, 2, 2)
    vocabulary = F.normalize(torch.randn(3, 2, 24), dim=-1)
    for only_valid in (False, True):
        ensemble = GeometricEnsemble(loaded, seen, 0.4, 0.8, only_valid=only_valid)
        with torch.no_grad():
            got = ensemble(logits, masks, features, vocabulary).softmax(-1)
            small = F.interpolate(masks, size=(2, 2), mode="bilinear", align_corners=False)
            embedded = F.normalize(ensemble.head(features, small), dim=-1)
            out = (loaded.logit_scale.exp().clamp(max=100) * embedded @ vocabulary.flatten(0, 1).T)[0]
            out = out.unflatten(-1, (3, 2)).amax(-1).softmax(-1)
        inner = logits[0, :, :-1].softmax(-1)
        share = torch.where(seen, 0.4, 0.8).expand(4, 3)
        if only_valid:
            share = share * (small[0].flatten(1) > 0).any(1, keepdim=True)
        mixed = (inner ** (1 - share) * out**share).log().softmax(-1)
        void = logits[0].softmax(-1)[:, -1:]
        expected = torch.cat([mixed * (1 - void), void], -1)
        assert torch.allclose(got[0], expected, atol=1e-5)


@pytest.fixture(scope="module", params=[False, True], ids=["head", "ensemble"])
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    torch.manual_seed(3)
    return build_segmenter(model(CONVNEXT, ensemble=request.param)).eval()


def test_another_vocabulary_without_rebuilding(segmenter: Segmenter) -> None:
    image = torch.rand(1, 3, 64, 96) * 255
    own = segmenter.vocabulary
    assert own is not None
    share = torch.full((19,), 0.4)
    with torch.no_grad():
        assert segmenter.scores(image).shape == (1, 19, 64, 96)
        less = segmenter(image, every_layer=False, vocabulary=own[:18], share=share[:18])[-1].class_logits
        same = segmenter(image, every_layer=False, vocabulary=own, share=share)[-1].class_logits
        assert less.shape[-1] == 19
        assert segmenter.scores(image, vocabulary=own[:18], share=share[:18]).shape[1] == 18
        assert torch.allclose(same, segmenter(image, every_layer=False)[-1].class_logits, atol=1e-6)
    if segmenter.ensemble is None:  # without the mixing's normalisation a class stands for itself
        assert torch.allclose(less[..., :18], same[..., :18], atol=1e-5)


def test_strips_of_scores_are_those_of_the_whole(
    segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "_MASK_STRIP", 1 << 13)
    image = (torch.rand(1, 3, 150, 203) * 255).to(torch.uint8)
    with torch.inference_mode():
        whole, lazy = segmenter.scores(image)[0], segmenter.lazy_scores(image)[0]
        assert torch.equal(lazy.whole(), whole)
        assert torch.equal(lazy.labels((150, 203))[0], whole.argmax(0).to(torch.uint8))


def test_only_the_head_learns(segmenter: Segmenter) -> None:
    segmenter.train()
    predictions = segmenter(torch.rand(2, 3, 64, 64) * 255)
    sum(p.class_logits.sum() + p.mask_logits.sum() for p in predictions).backward()
    learning = {n for n, p in segmenter.named_parameters() if p.grad is not None}
    assert {"mask_decoder.classify.void", "mask_decoder.classify.scale"} <= learning
    assert not any(name.startswith(("backbone", "ensemble")) for name in learning)
    segmenter.zero_grad(set_to_none=True)
    segmenter.eval()


def test_store_and_load(segmenter: Segmenter) -> None:
    from clouds_deploy.models.clouds.store import empty_segmenter, fill

    again = empty_segmenter(segmenter.config, "random").eval()
    fill(again, segmenter.state_dict(), "memory")
    image = torch.rand(1, 3, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(again.scores(image), segmenter.scores(image))


def test_wrong_combinations_are_explained() -> None:
    with pytest.raises(CloudsError, match="no CLIP to take names from"):
        build_segmenter(model(BackboneConfig()))
    other = {"clip": CONVNEXT.name, "weights": "random", "options": CONVNEXT.options}
    with pytest.raises(CloudsError, match="needs the text's CLIP as backbone"):
        build_segmenter(model(BackboneConfig(), ensemble=True, **other))
    assert build_segmenter(model(BackboneConfig(), **other)).vocabulary is not None


def test_pooling_and_void() -> None:
    features = torch.arange(8.0).view(1, 2, 2, 2)
    masks = torch.tensor([[[[1.0, -1.0], [1.0, -1.0]]]])
    assert torch.allclose(pool_masks(features, masks), torch.tensor([[[1.0, 5.0]]]))
    logits = vocabulary_logits(
        torch.tensor([[[1.0, 0.0]]]),
        torch.tensor([[[0.0, 1.0], [1.0, 0.0]]]),
        torch.tensor(10.0),
        torch.tensor([[0.0, 7.0]]),
    )
    assert logits.tolist() == [[[100.0, 0.0]]]  # the temperature is capped, void is normalised
