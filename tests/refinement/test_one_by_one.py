"""Masks are merged one after the other: equal to merging all at once, in little memory, and to be stopped."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from clouds_deploy.config.joint import RefineConfig, RobustConfig
from clouds_deploy.inference.sam import Embedded
from clouds_deploy.refinement.components import find_components
from clouds_deploy.refinement.prompts import Pace, Plan
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.refinement.rules_official import merge_official, plan_official
from clouds_deploy.refinement.rules_robust import CITYSCAPES_OUTLINES, merge_robust, plan_robust, reliability

LOW = 16


class BoxSam:
    """Answers each prompt with a square around its first point, at any size of image."""

    size, name = 64, "boxes"

    def embed(self, images: Sequence[Any]) -> Embedded:
        return Embedded(np.zeros((len(images), 1, 1, 1), np.float32), tuple(i.shape[:2] for i in images))

    def prompt(self, embedded: Embedded, image_index: Any, points: Any, labels: Any) -> tuple[Any, Any]:
        height, width = embedded.sizes[0]
        low = np.full((len(points), 3, LOW, LOW), -1, np.float32)
        for one, (x, y) in zip(low, points[:, 0], strict=True):
            row, column = int(y / height * LOW), int(x / width * LOW)
            one[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2] = 1
        return low, np.full((len(points), 3), 0.9, np.float32)

    def masks(self, low_res: Any, size: tuple[int, int]) -> Any:
        rows, columns = (np.arange(n) * LOW // n for n in size)
        return (low_res > 0)[:, rows[:, None], columns]

    def describe(self) -> dict[str, Any]:
        return {"sam": self.name}


def blobs(seed: int, height: int = 60, width: int = 90, cell: int = 6) -> np.ndarray:
    random = np.random.default_rng(seed)
    cells = random.choice(np.array([0, 5, 6, 11, 13, 255], np.uint8), (height // cell, width // cell))
    return cells.repeat(cell, 0).repeat(cell, 1)


def any_masks(plan: Plan, seed: int) -> np.ndarray:
    """Each component's own pixels and some of its surroundings, so that many overlap."""
    random = np.random.default_rng(seed)
    masks = np.zeros((len(plan.components), *plan.size), np.bool_)
    for mask, component in zip(masks, plan.components, strict=True):
        mask[component.box] = component.mask
        for _ in range(int(random.integers(0, 4))):
            mask |= np.roll(mask, random.integers(-4, 5, 2), (0, 1))
    return masks


def robust_at_once(labels: Any, sure: Any, plan: Plan, masks: Any, scores: Any, config: RobustConfig) -> Any:
    """The rules in their first form: all accepted masks held, sorted, painted over each other."""
    from clouds_deploy.refinement.rules_robust import _judge

    taken = []
    kept = CITYSCAPES_OUTLINES.small[labels]
    if sure is not None:
        kept &= sure >= 0.5
    doubt = np.zeros(labels.shape, np.float32)
    for component, mask, score in zip(plan.components, masks, scores, strict=True):
        kept[component.box] &= ~component.mask
        found = _judge(
            labels, sure, component, component.mask, mask, float(score), config, CITYSCAPES_OUTLINES
        )
        if found is not None:
            doubt[component.box][component.mask] = found.rating
            taken.append((found, mask, int(mask.sum())))
        elif score < config.rating:
            kept[component.box] |= component.mask
    painted, rating = np.full(labels.shape, 255, np.uint8), np.zeros(labels.shape, np.float32)
    for found, mask, _ in sorted(taken, key=lambda t: (-int(np.log(t[2]) / np.log(1.5)), t[0].rating)):
        painted[mask], rating[mask] = found.label, found.rating
    right = reliability(labels, sure, config.border)
    claimed = painted != 255
    out = np.where(claimed & ~kept & (rating > right), painted, labels)
    out[~claimed & (doubt > right)] = 255
    return out, len(taken)


@pytest.mark.parametrize("seed", range(12))
def test_robust_is_the_same_as_all_at_once(seed: int) -> None:
    labels, config = blobs(seed), RobustConfig()
    random = np.random.default_rng(seed)
    sure = random.random(labels.shape, np.float32) if seed % 2 else None
    plan = plan_robust(labels, sure, config)
    masks = any_masks(plan, seed)
    scores = random.choice(np.array([0.5, 0.7, 0.7, 0.9, 1.02], np.float32), len(masks))  # with ties
    expected, accepted = robust_at_once(labels, sure, plan, masks, scores, config)
    found = merge_robust(labels, sure, plan, iter(masks), scores, config)
    assert np.array_equal(found.labels, expected)
    assert found.accepted == accepted > 5


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("remove", [True, False])
def test_official_is_the_same_as_all_at_once(seed: int, remove: bool) -> None:
    labels = blobs(seed)
    config = RefineConfig(mode="official", points=3, min_area=10, remove_intersections=remove)
    plan = plan_official(labels, config, np.random.default_rng(0))
    masks = any_masks(plan, seed)
    assert len(masks) > 5
    claims = masks.sum(0)
    found = merge_official(labels, plan, iter(masks), config)
    assert np.array_equal(found.negatives, claims != 1 if remove else claims == 0)
    by_class = {c: np.zeros(labels.shape, bool) for c in {one.label for one in plan.components}}
    for component, mask in zip(plan.components, masks, strict=True):
        by_class[component.label] |= mask
    classes = sum(mask.astype(int) for mask in by_class.values())
    for label, mask in by_class.items():
        only = mask & ((claims == 1) if remove else (classes == 1))
        assert np.array_equal(found.labels == label, only)
        if not remove:
            assert np.array_equal(found.overlaps[label], mask & (claims > 1) & (classes > 1))
    assert ((claims > 2) & (found.labels == 255)).any() or not remove


def test_many_masks_of_a_large_image_are_never_held_together() -> None:
    """Hundreds of masks of a million pixels would be hundreds of bytes a pixel."""
    labels = blobs(0, 1020, 1020, 34)
    image = np.zeros((*labels.shape, 3), np.uint8)
    tracemalloc.start()
    (refined,) = Refiner(BoxSam(), RefineConfig()).refine([image], [labels])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refined.prompted > 400
    assert peak < 50 * labels.size


def test_a_map_of_noise_and_boxes_as_large_as_the_image_take_little_memory() -> None:
    noise = np.random.default_rng(0).integers(0, 19, (1500, 1500)).astype(np.uint8)
    stripes = ((np.add.outer(np.arange(1500), np.arange(1500)) // 20) % 19).astype(np.uint8)
    for labels, least in ((noise, 0), (stripes, 140)):
        tracemalloc.start()
        found = find_components(labels, 1000)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(found) >= least
        assert peak < 80 * labels.size
        assert sum(int(component.mask.sum()) for component in found) == sum(one.area for one in found)


class Stopped(Exception):
    pass


class Counted(Pace):
    def __init__(self, last: int) -> None:
        self.last, self.pauses, self.admitted = last, 0, (0, 0)

    def admit(self, prompts: int, pixels: int) -> None:
        self.admitted = prompts, pixels

    def pause(self) -> None:
        self.pauses += 1
        if self.pauses > self.last:
            raise Stopped


@pytest.mark.parametrize("mode", ["robust", "official"])
def test_work_stops_between_two_units(mode: Any) -> None:
    labels = blobs(1, 600, 600, 60)
    image = np.zeros((*labels.shape, 3), np.uint8)
    config = RefineConfig(mode=mode, min_area=10, points=3, erosion=3)
    refiner, whole = Refiner(BoxSam(), config), Counted(10**9)
    (expected,) = refiner.refine([image], [labels], pace=whole)
    prompts = expected.prompted
    assert prompts > 20
    assert whole.admitted == (prompts, labels.size)
    assert whole.pauses >= prompts + 2  # each component, the calls of SAM, and the masks
    for last in (0, prompts // 2, prompts, whole.pauses - 1):
        with pytest.raises(Stopped):
            refiner.refine([image], [labels], pace=Counted(last))
    (again,) = refiner.refine([image], [labels])
    assert np.array_equal(again.labels, expected.labels)
