"""The authors' rules, one test each (docs/explanation/method.md 3.6)."""

from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.refinement.prompts import Plan
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.refinement.rules_official import best_rated, merge_official, plan_official
from tests.refinement.fakes import ColourSam

OFFICIAL = RefineConfig(mode="official")
SMALL = RefineConfig(mode="official", min_area=20, reference_size=(32, 32), points=3)


def random() -> np.random.Generator:
    return np.random.default_rng(0)


def areas(labels: np.ndarray, config: RefineConfig) -> list[int]:
    return [c.area for c in plan_official(labels, config, random()).components]


def test_components_need_more_than_5000_pixels_of_768_by_768() -> None:
    labels = np.full((768, 768), 255, np.uint8)
    labels[:50, :100] = 13  # 5000
    labels[100:150, :100], labels[150, 0] = 14, 14  # 5001
    assert areas(labels, OFFICIAL) == [5001]


def test_the_limit_follows_the_area_of_other_sizes() -> None:
    labels = np.full((384, 384), 255, np.uint8)
    labels[:25, :50] = 13  # 1250 = 5000 / 4
    labels[100:125, :50], labels[125, 0] = 14, 14
    assert areas(labels, OFFICIAL) == [1251]


def test_components_are_prompted_one_by_one_within_a_class() -> None:
    labels = np.full((32, 32), 255, np.uint8)
    labels[:10, :10] = labels[20:30, 20:30] = 13
    labels[10, 10] = 13  # touches the first by a corner only, and is too small by itself
    labels[:10, 20:30] = 2
    plan = plan_official(labels, SMALL, random())
    assert [(c.label, c.area) for c in plan.components] == [(2, 100), (13, 100), (13, 100)]
    assert plan.points.shape == (3, 3, 2)


def test_five_points_of_the_component_without_repetition_all_foreground() -> None:
    labels = np.full((40, 40), 255, np.uint8)
    labels[3:9, 20:29] = 5
    config = SMALL.model_copy(update={"points": 54})  # every pixel it has
    plan = plan_official(labels, config, random())
    assert (plan.labels == 1).all()
    assert plan.labels.shape == (1, 54)
    drawn = {(int(x), int(y)) for x, y in plan.points[0]}
    assert drawn == {(x, y) for y in range(3, 9) for x in range(20, 29)}
    assert OFFICIAL.points == 5


def test_points_are_random_by_seed_and_image() -> None:
    labels = np.zeros((64, 64), np.uint8)

    def points(seed: int, key: int) -> list[object]:
        config = RefineConfig(mode="official", seed=seed)
        return Refiner(ColourSam(), config).plan(labels, key=key).points.tolist()

    assert points(0, 1) == points(0, 1)
    assert points(0, 1) != points(0, 2)
    assert points(0, 1) != points(1, 1)


def test_too_few_pixels_for_the_points_is_no_prompt() -> None:
    labels = np.full((32, 32), 255, np.uint8)
    labels[0, :30] = 7
    assert areas(labels, SMALL.model_copy(update={"points": 30})) == [30]
    assert areas(labels, SMALL.model_copy(update={"points": 31})) == []


def test_erosion_keeps_points_off_the_border() -> None:
    labels = np.full((32, 32), 255, np.uint8)
    labels[5:11, 5:15] = 7
    config = SMALL.model_copy(update={"erosion": 3, "points": 32})
    (points,) = plan_official(labels, config, random()).points
    assert {(int(x), int(y)) for x, y in points} == {(x, y) for y in range(6, 10) for x in range(6, 14)}


def test_of_three_masks_the_one_of_highest_predicted_iou() -> None:
    scores = np.array([[0.2, 0.9, 0.5], [0.7, 0.7, 0.1]], np.float32)
    plan = plan_official(np.zeros((64, 64), np.uint8), OFFICIAL, random())
    assert best_rated(plan, slice(0, 2), np.zeros((2, 3, 4, 4), np.float32), scores).tolist() == [1, 0]


@pytest.fixture
def three() -> tuple[np.ndarray, Plan]:
    """Two cars and a bus, side by side."""
    labels = np.full((32, 32), 255, np.uint8)
    labels[:, :8], labels[:, 12:20], labels[:, 24:] = 13, 13, 15
    return labels, plan_official(labels, SMALL, random())


def bars(*spans: tuple[int, int]) -> np.ndarray:
    masks = np.zeros((len(spans), 32, 32), bool)
    for mask, (left, right) in zip(masks, spans, strict=True):
        mask[:, left:right] = True
    return masks


def test_pixels_claimed_twice_are_taken_from_all_even_of_one_class(three: tuple[np.ndarray, Plan]) -> None:
    labels, plan = three
    refined = merge_official(labels, plan, bars((0, 14), (10, 20), (18, 32)), SMALL)
    row = refined.labels[0]
    assert (row[:10] == 13).all()
    assert (row[10:14] == 255).all()
    assert (row[14:18] == 13).all()
    assert (row[18:20] == 255).all()
    assert (row[20:] == 15).all()


def test_masks_of_a_class_are_united_and_the_rest_is_negative(three: tuple[np.ndarray, Plan]) -> None:
    labels, plan = three
    refined = merge_official(labels, plan, bars((0, 6), (12, 18), (24, 30)), SMALL)
    classes, masks = refined.targets()
    assert classes == [13, 15]
    assert masks[0, 0].nonzero()[0].tolist() == [*range(6), *range(12, 18)]
    assert masks[1, 0].nonzero()[0].tolist() == [*range(24, 30)]
    assert refined.negatives[0].nonzero()[0].tolist() == [*range(6, 12), *range(18, 24), 30, 31]
    assert not refined.ignored.any()


def test_intersections_can_be_kept(three: tuple[np.ndarray, Plan]) -> None:
    labels, plan = three
    config = SMALL.model_copy(update={"remove_intersections": False})
    refined = merge_official(labels, plan, bars((0, 14), (10, 20), (18, 30)), config)
    classes, masks = refined.targets()
    assert classes == [13, 15]
    assert masks[0, 0].nonzero()[0].tolist() == [*range(20)]
    assert masks[1, 0].nonzero()[0].tolist() == [*range(18, 30)]
    assert (refined.labels[0, 10:14] == 13).all()  # claimed by two cars, so a car
    assert (refined.labels[0, 18:20] == 255).all()  # a label map has room for one class only
    assert refined.negatives[0].nonzero()[0].tolist() == [30, 31]
    assert not refined.ignored.any()


def test_a_class_that_lost_everything_has_no_segment(three: tuple[np.ndarray, Plan]) -> None:
    labels, plan = three
    refined = merge_official(labels, plan, bars((0, 8), (12, 20), (2, 8)), SMALL)
    assert refined.targets()[0] == [13]
    assert refined.negatives[:, 2:8].all()


def test_without_any_prompt_the_labels_stay() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    labels = np.full((64, 64), 255, np.uint8)
    labels[:4, :4] = 7
    (refined,) = Refiner(ColourSam(), OFFICIAL).refine([image], [labels])
    assert np.array_equal(refined.labels, labels)
    assert np.array_equal(refined.negatives, labels == 255)
    assert (refined.prompted, refined.accepted) == (0, 0)


def test_small_parts_become_negatives() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[20:24, 20:24] = 200
    labels = np.zeros((64, 64), np.uint8)
    labels[20:24, 20:24] = 7
    (refined,) = Refiner(ColourSam(), OFFICIAL).refine([image], [labels])
    assert (refined.labels[20:24, 20:24] == 255).all()
    assert refined.negatives[20:24, 20:24].all()
