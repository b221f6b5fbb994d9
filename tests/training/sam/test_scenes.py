from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from clouds_deploy.config.sam import SamDataConfig, SamTinyConfig
from clouds_deploy.labels import IGNORE
from clouds_deploy.models.sam.tiny import build_sam_tiny
from clouds_deploy.streets import Scene, render
from clouds_deploy.training.sam import scenes
from clouds_deploy.training.sam.dense import STRIDE, DenseHead, dense_loss, dense_targets, region_loss
from clouds_deploy.training.sam.scenes import SamScenes, pick_masks, street_regions

CONFIG = SamDataConfig(height=64, masks=3)
SIZE = 128


def test_a_sample_is_a_function_of_seed_and_index() -> None:
    first, again, other = (SamScenes(CONFIG, SIZE, 2 * SIZE, seed) for seed in (0, 0, 1))
    for index in range(6):
        sample = first[index]
        for name, value in again[index].items():
            assert torch.equal(sample[name], value), name
        assert not torch.equal(sample["image"], other[index]["image"])
        assert sample["image"].shape == (3, SIZE // 2, SIZE)
        assert sample["masks"].shape == (3, SIZE // 2, SIZE)
        assert sample["masks"].flatten(1).any(1).all()
        shares = sample["masks"].float().mean((1, 2))
        assert (shares >= CONFIG.smallest).all()
        assert (shares <= 0.9).all()
        assert sample["classes"].shape == (SIZE // 2 // STRIDE, SIZE // STRIDE)
        assert sample["extents"].shape == (4, *sample["classes"].shape)
        assert sample["regions"].shape == (SIZE // 2, SIZE)
        assert sample["offset"].dtype == torch.float32
        assert (sample["offset"] >= 0).all()
        assert (sample["offset"] <= torch.tensor([SIZE, 1.5 * SIZE])).all()


def test_crops_lie_all_over_the_square_and_whole_streets_at_its_top() -> None:
    config = CONFIG.model_copy(update={"shapes": 0.0, "whole": 0.0, "height": 96})
    places = [SamScenes(config, 64, 128, 0)[index]["offset"] for index in range(40)]
    across, down = torch.stack(places).unbind(1)
    assert across.min() < 10
    assert across.max() > 54
    assert down.max() - down.min() > 70
    assert len({round(float(x), 3) for x in across}) > 30
    assert SamScenes(config.model_copy(update={"whole": 1.0}), 128, 256, 0)[0]["offset"].tolist() == [0, 0]


def test_views_of_a_street_share_its_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def counted(domain: str, seed: int, index: int, height: int, width: int) -> Scene:
        drawn.append(index)
        return render(domain, seed, index, height, width)

    monkeypatch.setattr(scenes, "render", counted)
    config = CONFIG.model_copy(update={"shapes": 0.0, "whole": 1.0, "views": 3})
    samples = SamScenes(config, SIZE, SIZE, 0)
    found = [samples[index] for index in range(6)]
    assert drawn == [0, 1]
    assert not torch.equal(found[0]["image"], found[1]["image"])  # their looks differ
    assert torch.equal(
        found[4]["image"], SamScenes(config, SIZE, SIZE, 0)[4]["image"]
    )  # whatever came before


def test_the_target_domain_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError):
        SamDataConfig(domains=("photo",))  # type: ignore[arg-type]


def test_shapes_have_regions_and_no_classes() -> None:
    sample = SamScenes(CONFIG.model_copy(update={"shapes": 1.0}), SIZE, SIZE, 0)[0]
    assert (sample["classes"] == IGNORE).all()
    assert (sample["extents"] > 0).any()
    assert (sample["regions"] > 0).any()


def test_regions_part_instances_that_touch() -> None:
    labels = np.zeros((6, 8), np.uint8)
    labels[2:4, 1:7] = 13
    instances = np.zeros((6, 8), np.int32)
    instances[2:4, 1:4], instances[2:4, 4:7] = 7, 9
    single, together = street_regions(labels, instances)
    assert len(np.unique(single)) == 3
    assert len(np.unique(together)) == 2
    assert single[2, 1] != single[2, 4]
    assert together[2, 1] == together[2, 4]


def test_too_small_and_too_large_regions_are_not_picked() -> None:
    layer = np.ones((10, 10), np.int32)
    layer[0, 0] = 2
    layer[5:, 5:] = 3
    draw = np.random.default_rng(0)
    found = pick_masks([layer], 5, 0.02, 0.5, draw)
    assert found is not None
    assert {int(mask.sum()) for mask in found} == {25, 74}
    assert pick_masks([np.ones((10, 10), np.int32)], 5, 0.02, 0.5, draw) is None


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_share_of_the_masks_are_instances(share: float) -> None:
    labels = np.full((8, 80), 2, np.uint8)
    instances = np.zeros((8, 80), np.int32)
    labels[:2, :60], labels[4:, :8], instances[4:, :8] = 10, 13, 3
    for column in range(0, 80, 4):
        labels[7, column] = 0  # many other parts
    layers = street_regions(labels, instances)
    draw, found = np.random.default_rng(0), 0
    for _ in range(400):
        masks = pick_masks(layers, 1, 0.001, share, draw)
        assert masks is not None
        found += bool((masks[0] == (instances == 3)).all())
    single = 400 * share
    assert abs(found - single) < 60 if 0 < share < 1 else found >= single
    assert share or found < 60  # as a part of its class the car may still come


def test_dense_targets_by_hand() -> None:
    labels = np.full((8, 12), 10, np.uint8)
    regions = np.zeros((8, 12), np.int32)
    regions[1:7, 2:11] = 5
    classes, extents = dense_targets(labels, regions)
    assert classes.tolist() == [[10] * 3] * 2
    # places are the middles of pixels 2, 6 and 10: 2.5, 6.5, 10.5
    assert extents[0].tolist() == [[0.5, 4.5, 8.5]] * 2  # from the left end, 2
    assert extents[1].tolist() == [[1.5] * 3, [5.5] * 3]
    assert extents[2].tolist() == [[8.5, 4.5, 0.5]] * 2  # to the right end, 11
    assert extents[3].tolist() == [[4.5] * 3, [0.5] * 3]


class _Right(torch.nn.Module):
    """Answers what is right."""

    def __init__(self, classes: torch.Tensor, extents: torch.Tensor) -> None:
        super().__init__()
        self.classes, self.extents = classes, extents

    def forward(self, _: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        known = torch.nn.functional.one_hot(self.classes.long().clamp(max=18), 19).permute(0, 3, 1, 2)
        return 100.0 * known.float(), self.extents.clamp(min=1e-3)


def test_the_dense_loss_is_zero_for_what_is_right() -> None:
    sample = SamScenes(CONFIG.model_copy(update={"shapes": 0.0}), SIZE, SIZE, 0)[0]
    classes, extents = sample["classes"][None], sample["extents"][None]
    none = torch.zeros(1, 1, 1, 1)
    assert float(dense_loss(_Right(classes, extents), none, classes, extents)) < 1e-5
    wider = dense_loss(_Right(classes, 2 * extents), none, classes, extents)
    assert float(wider) == pytest.approx(0.75, abs=1e-4)  # a box of four times the area
    unknown = torch.full_like(classes, IGNORE)
    assert float(dense_loss(_Right(classes, extents), none, unknown, torch.zeros_like(extents))) == 0
    head = DenseHead(8, 8)
    logits, found = head(torch.randn(2, 8, 3, 4))
    assert logits.shape == (2, 19, 6, 8)
    assert found.shape == (2, 4, 6, 8)
    assert (found > 0).all()


def test_the_region_loss_falls_as_embeddings_tell_regions_apart() -> None:
    torch.manual_seed(0)
    sam = build_sam_tiny(SamTinyConfig(image_size=64, prompt_width=32, decoder_feedforward=32)).train()
    embedding = torch.nn.Parameter(0.1 * torch.randn(2, 32, 8, 8))
    regions = torch.ones(2, 32, 32, dtype=torch.int32)
    regions[:, :, 16:] = 2
    regions[1, 24:] = 0

    def loss(of: torch.Tensor = regions) -> torch.Tensor:
        return region_loss(sam, embedding, of, torch.Generator().manual_seed(1))

    start = loss().item()
    optimizer = torch.optim.Adam([embedding, *sam.mask_decoder.parameters()], 0.01)
    for _ in range(40):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.3 * start
    assert loss(torch.zeros_like(regions)).item() == 0
