"""The batched passes of training against `segment_anything`'s own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from clouds_deploy.training.sam.forward import decode, encode, fuse_attention, fuse_norms
from clouds_deploy.training.sam.losses import mask_losses
from tests.models.sam_cases import SIZES, small_sam

SIDE = SIZES["sam_tiny"]


@pytest.fixture(scope="module")
def embeddings() -> torch.Tensor:
    sam = small_sam("sam_tiny")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[SIDE, SIDE], [SIDE // 2, SIDE - 40]])
    with torch.no_grad():
        found = encode(sam, images, sizes)
        for image, size, mine in zip(images, sizes.tolist(), found, strict=True):
            theirs = sam.image_encoder(sam.preprocess(image[None, :, : size[0], : size[1]].float()))
            assert torch.allclose(mine, theirs[0], atol=1e-4)
    return found


@pytest.mark.parametrize("labels", [[1.0, -1.0], [1.0, 0.0, 1.0, -1.0], [2.0, 3.0], [1.0, 0.0, 2.0, 3.0]])
@pytest.mark.parametrize("corrected", [False, True])
def test_decode_is_the_official_decoder(
    embeddings: torch.Tensor, labels: list[float], corrected: bool
) -> None:
    sam = small_sam("sam_tiny")
    generator = torch.Generator().manual_seed(1)
    points = torch.rand(3, len(labels), 2, generator=generator) * SIDE
    kinds = torch.tensor([labels]).repeat(3, 1)
    previous = torch.randn(3, 1, SIDE, SIDE, generator=generator) if corrected else None
    owner = torch.tensor([0, 1, 1])
    with torch.no_grad():
        masks, ratings = decode(sam, embeddings[owner], points, kinds, previous)
        for i in range(3):
            boxed = labels[-1] == 3
            plain = slice(0, len(labels) - (2 if boxed else 1))
            sparse, dense = sam.prompt_encoder(
                points=(points[i : i + 1, plain], kinds[i : i + 1, plain]) if plain.stop else None,
                boxes=points[i : i + 1, -2:].reshape(1, 4) if boxed else None,
                masks=None if previous is None else previous[i : i + 1],
            )
            theirs, rated = sam.mask_decoder.predict_masks(
                embeddings[owner[i] : owner[i] + 1], sam.prompt_encoder.get_dense_pe(), sparse, dense
            )
            assert torch.allclose(masks[i], theirs[0], atol=1e-4)
            assert torch.allclose(ratings[i], rated[0], atol=1e-5)


def test_a_crop_is_told_where_it_lies(embeddings: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    sam = small_sam("sam_tiny")
    seen: list[tuple[torch.Tensor, ...]] = []
    transformer = sam.mask_decoder.transformer.forward

    def listen(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(given)
        return transformer(*given)

    monkeypatch.setattr(sam.mask_decoder.transformer, "forward", listen)
    points, kinds = torch.tensor([[[40.0, 50.0]]]), torch.ones(1, 1)
    moved = torch.tensor([[16.0, 8.0]])
    with torch.no_grad():
        decode(sam, embeddings[:1], points, kinds, None)
        decode(sam, embeddings[:1, :, 2:10, 4:16], points - moved, kinds, None, moved)
    (_, whole, first), (_, crop, second) = seen
    torch.testing.assert_close(whole, sam.prompt_encoder.get_dense_pe())
    torch.testing.assert_close(crop, whole[:, :, 2:10, 4:16])
    torch.testing.assert_close(first, second)


def test_fused_attention_gives_the_same_numbers(embeddings: torch.Tensor) -> None:
    """Masks, ratings and gradients, against `segment_anything`'s own attention."""
    found = []
    for fused in (False, True):
        sam = small_sam("sam_tiny").requires_grad_(True)
        if fused:
            fuse_attention(sam)
        points, kinds = (
            torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(3)) * SIDE,
            torch.ones(2, 3),
        )
        logits, ratings = decode(sam, embeddings.clone(), points, kinds, None)
        (logits.mean() + ratings.sum()).backward()
        weight = sam.mask_decoder.transformer.layers[0].cross_attn_token_to_image.q_proj.weight
        found.append((logits.detach(), ratings.detach(), weight.grad))
    for theirs, mine in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    assert found[0][2].abs().max() > 0


def test_fused_norms_give_the_same_numbers() -> None:
    """Embeddings and gradients, against modules that normalise for themselves, statistics of all kinds."""
    found = []
    images = torch.randint(
        0, 256, (2, 3, SIDE, 2 * SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    for fused in (False, True):
        sam = small_sam("sam_tiny").requires_grad_(True).train()
        torch.manual_seed(1)
        norms = [m for m in sam.image_encoder.trunk.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        for norm in norms:
            for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                value.data.copy_(torch.rand_like(value) + 0.5)
        keys = list(sam.state_dict())
        if fused:
            fuse_norms(sam.image_encoder)
        assert list(sam.state_dict()) == keys
        out = encode(sam, images)
        out.square().mean().backward()
        stem, deep = sam.image_encoder.trunk.conv_stem, sam.image_encoder.trunk.blocks[2][0].conv_dw
        found.append(
            (out.detach(), stem.weight.grad, deep.weight.grad, norms[0].weight.grad, norms[7].bias.grad)
        )
    for theirs, mine in zip(*found, strict=True):
        assert theirs.abs().max() > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()) + 1e-7)


def test_losses_by_hand() -> None:
    truth = torch.zeros(1, 2, 2)
    truth[0, 0] = 1.0
    logits = torch.full((1, 4, 2, 2), -40.0)
    logits[0, 0, 0] = 40.0  # the single mask is right
    logits[0, 2, 0, 0] = 40.0  # of the three the second is half right, the others empty
    ratings = torch.tensor([[1.0, 0.0, 0.5, 0.25]])
    focal, dice, rating = mask_losses(logits, truth, ratings, 2.0).tolist()
    assert focal == pytest.approx(2.0 * 0.25 * 40 / 4, rel=1e-4)  # one pixel of four missed, alpha 0.25
    assert dice == pytest.approx(1 - 3 / 4, rel=1e-4)  # (2 * 1 + 1) / (1 + 2 + 1)
    assert rating == pytest.approx(4 * 0.25**2 / 4)


def test_the_mask_that_is_rated_best_counts_too() -> None:
    truth = torch.ones(1, 2, 2)
    logits = torch.full((1, 4, 2, 2), 40.0)  # all are right but the last
    logits[0, 3, 0] = -40.0
    for ratings, expected in (([0.9, 0.1, 0.2, 0.3], 1 - 5 / 7), ([0.9, 0.1, 0.2, 0.1], 0.0)):
        logits.requires_grad_()
        logits.grad = None
        focal, dice, _ = mask_losses(logits, truth, torch.tensor([ratings]), 1.0)
        assert dice.item() == pytest.approx(expected / 2, abs=1e-6)
        focal.backward()
        assert (logits.grad[0, 3].abs().sum() > 0) == (expected > 0)


def test_all_masks_count_alike_where_nothing_is_ambiguous() -> None:
    truth = torch.ones(1, 2, 2)
    logits = torch.full((1, 4, 2, 2), 40.0)
    logits[0, 3, 0] = -40.0  # neither the best nor the one rated best
    ratings = torch.tensor([[0.1, 0.9, 0.2, 0.3]])
    for ambiguous, expected in ((True, 0.0), (False, (1 - 5 / 7) / 3)):
        _, dice, _ = mask_losses(logits, truth, ratings, 1.0, ambiguous)
        assert dice.item() == pytest.approx(expected, abs=1e-6)


def test_losses_count_a_share_of_a_pixel() -> None:
    logits = torch.zeros(1, 4, 3, 3)
    truth = torch.full((1, 3, 3), 0.5)
    focal, _, _ = mask_losses(logits, truth, torch.zeros(1, 4), 1.0).tolist()
    assert focal == pytest.approx(0.0)
    expected = F.binary_cross_entropy_with_logits(torch.tensor(0.0), torch.tensor(1.0)) * 0.25 * 0.25
    focal, _, _ = mask_losses(logits, torch.ones(1, 3, 3), torch.zeros(1, 4), 1.0).tolist()
    assert focal == pytest.approx(2 * float(expected))
