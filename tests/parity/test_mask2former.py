"""Both decoders equal transformers' Mask2Former under the same random weights."""

from __future__ import annotations

import pytest
import torch

from clouds_deploy.config.model import MaskDecoderConfig, PixelDecoderConfig
from clouds_deploy.labels import NUM_CLASSES
from clouds_deploy.models.clouds.mask_decoder import MaskDecoder
from clouds_deploy.models.clouds.pixel_decoder import PixelDecoder
from tests.parity.mask2former import Peer, load_mask_decoder, load_pixel_decoder, randomize

CHANNELS = [24, 40, 56, 72]
TOLERANCE = 1e-5  # relative to the largest magnitude of the peer's tensor, fp32


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def features(seed: int, height: int, width: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(2, c, height // s, width // s, generator=generator)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    )


@pytest.fixture(scope="module", params=[(64, 8, 2), (256, 8, 6)], ids=["small", "published"])
def decoders(request: pytest.FixtureRequest) -> tuple[Peer, PixelDecoder, MaskDecoder]:
    width, heads, layers = request.param
    pixel = PixelDecoderConfig(layers=layers, heads=heads, feedforward=128)
    mask = MaskDecoderConfig(queries=30, layers=9, heads=heads, feedforward=192)
    peer = Peer(CHANNELS, width, pixel, mask).eval()
    randomize(peer, seed=width)
    ours = PixelDecoder(CHANNELS, width, pixel).eval(), MaskDecoder(width, NUM_CLASSES, mask).eval()
    load_pixel_decoder(ours[0], peer)
    load_mask_decoder(ours[1], peer)
    return peer, *ours


@pytest.mark.parametrize("size", [(64, 128), (96, 64)])
def test_pixel_decoder(decoders: tuple[Peer, PixelDecoder, MaskDecoder], size: tuple[int, int]) -> None:
    peer, pixel, _ = decoders
    inputs = features(1, *size)
    with torch.no_grad():
        theirs = peer.pixel_decoder(list(inputs))
        mask_features, maps = pixel(inputs)
    assert relative(mask_features, theirs.mask_features) <= TOLERANCE
    for ours, other in zip(maps, theirs.multi_scale_features, strict=True):
        assert relative(ours, other) <= TOLERANCE


def test_every_decoder_layer(decoders: tuple[Peer, PixelDecoder, MaskDecoder]) -> None:
    peer, _, decoder = decoders
    inputs = features(2, 64, 128)
    with torch.no_grad():
        pixels = peer.pixel_decoder(list(inputs))
        maps = list(pixels.multi_scale_features)
        classes, masks = peer(list(inputs))
        predictions = decoder(pixels.mask_features, maps, every_layer=True)
        last = decoder(pixels.mask_features, maps, every_layer=False)
    assert len(predictions) == len(classes) == 10
    for ours, their_classes, their_masks in zip(predictions, classes, masks, strict=True):
        assert relative(ours.class_logits, their_classes) <= TOLERANCE
        assert relative(ours.mask_logits, their_masks) <= TOLERANCE
    assert len(last) == 1
    assert torch.equal(last[0].mask_logits, predictions[-1].mask_logits)


def test_attention_masks(decoders: tuple[Peer, PixelDecoder, MaskDecoder]) -> None:
    peer, _, decoder = decoders
    inputs = features(3, 64, 128)
    different, total, reopened = 0, 0, 0
    with torch.no_grad():
        pixels = peer.pixel_decoder(list(inputs))
        generator = torch.Generator().manual_seed(5)
        queries = torch.randn(40, 2, decoder.width, generator=generator)
        queries[:4] *= 0  # constant embeddings: rows that are all blocked or all open
        predictor = peer.transformer.decoder.mask_predictor
        for level, size in enumerate([(2, 4), (4, 8), (8, 16)]):
            _, blocked = predictor(queries, pixels.mask_features, size)
            blocked = blocked[:: predictor.num_heads]
            embedded = predictor.mask_embedder(queries.transpose(0, 1))
            small = torch.nn.functional.interpolate(
                pixels.mask_features, size=size, mode="bilinear", align_corners=False
            ).flatten(2)
            allowed = MaskDecoder.allowed(embedded, small)
            theirs = ~(blocked & ~blocked.all(-1, keepdim=True))
            different += int((allowed != theirs).sum())
            reopened += int(blocked.all(-1).sum())
            total += allowed.numel()
            assert allowed.any(-1).all(), f"level {level} has a query that may look nowhere"
    assert different / total <= 1e-4


def test_fully_blocked_row_reopens() -> None:
    embedded = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    small = torch.ones(1, 2, 6)
    allowed = MaskDecoder.allowed(embedded, small)
    assert allowed.all()
