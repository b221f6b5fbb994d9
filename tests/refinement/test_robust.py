"""What `robust` takes from SAM, and what it does not."""

from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.config.joint import RefineConfig, RobustConfig
from clouds_deploy.refinement.changes import Refined
from clouds_deploy.refinement.prompts import Plan
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.refinement.rules_robust import merge_robust, most_agreeing, plan_robust, reliability
from tests.refinement.fakes import ColourSam, scene

CONFIG = RobustConfig(border=0.5)
"""The teacher is to be trusted nowhere much, so that what SAM says shows."""
ROAD, BUILDING, POLE, SKY, PERSON, CAR, TRUCK, BUS = 0, 2, 5, 10, 11, 13, 14, 15


def rectangle(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    mask = np.zeros((64, 64), bool)
    mask[top:bottom, left:right] = True
    return mask


def teacher(*parts: tuple[int, np.ndarray], ground: int = ROAD) -> np.ndarray:
    labels = np.full((64, 64), ground, np.uint8)
    for label, mask in parts:
        labels[mask] = label
    return labels


def merge(
    labels: np.ndarray,
    given: dict[int, np.ndarray],
    config: RobustConfig = CONFIG,
    confidence: np.ndarray | None = None,
    scores: dict[int, float] | None = None,
) -> Refined:
    """Answer the prompts of some classes with masks; those of others with nothing."""
    plan = plan_robust(labels, confidence, config)
    nothing = np.zeros(labels.shape, bool)
    masks = np.stack([given.get(c.label, nothing) for c in plan.components])
    rated = np.array([(scores or {}).get(c.label, 0.9) for c in plan.components], np.float32)
    return merge_robust(labels, confidence, plan, masks, rated, config)


def test_prompts_are_interior_points_and_a_box() -> None:
    labels = teacher((CAR, rectangle(10, 30, 20, 50)))
    plan = plan_robust(labels, None, CONFIG)
    road, car = plan.components
    assert (road.label, car.label) == (ROAD, CAR)
    assert plan.labels.tolist() == [[1, 1, 1, 2, 3]] * 2
    assert plan.points[1, 3:].tolist() == [[20, 10], [50, 30]]
    x, y = plan.points[1, :3].T.astype(int)
    assert (labels[y, x] == CAR).all()
    assert len(set(x.tolist())) == 3


def test_a_component_of_fewer_pixels_than_points_is_padded() -> None:
    labels = teacher((CAR, rectangle(10, 11, 20, 22)))
    plan = plan_robust(labels, None, CONFIG.model_copy(update={"smallest": 0.0}))
    assert plan.labels[1].tolist() == [1, 1, -1, 2, 3]


def test_the_limit_is_a_share_of_the_image() -> None:
    labels = teacher((CAR, rectangle(0, 2, 0, 4)), (POLE, rectangle(10, 19, 7, 8)))
    config = CONFIG.model_copy(update={"smallest": 8 / 64**2})
    assert [c.label for c in plan_robust(labels, None, config).components] == [ROAD, POLE]


def test_the_proposal_that_fits_the_component_beats_a_higher_rating() -> None:
    labels = teacher((CAR, rectangle(10, 30, 20, 50)))
    plan = plan_robust(labels, None, CONFIG)
    low = np.full((1, 3, 32, 32), -1, np.float32)
    low[0, 0] = 1  # everything, rated best
    low[0, 1, 5:15, 10:25] = 1  # the car, at half the size
    low[0, 2, 5:9, 10:14] = 1
    scores = np.array([[0.95, 0.8, 0.9]], np.float32)
    assert most_agreeing(64, plan, slice(1, 2), low, scores).tolist() == [1]
    scores = np.array([[0.2, 0.01, 0.9]], np.float32)
    assert most_agreeing(64, plan, slice(1, 2), low, scores).tolist() == [2]


def test_proposals_of_a_letterboxed_image_are_compared_in_place() -> None:
    labels = np.zeros((30, 90), np.uint8)  # seen at 64 x 21 of 64 x 64
    labels[10:20, 60:80] = CAR
    plan = plan_robust(labels, None, CONFIG)
    low = np.full((1, 3, 64, 64), -1, np.float32)
    low[0, 1, 7:14, 43:57] = 1
    low[0, 2, 7:14, 23:37] = 1
    assert most_agreeing(64, plan, slice(1, 2), low, np.full((1, 3), 0.5, np.float32)).tolist() == [1]


def test_outlines_are_sams() -> None:
    true = rectangle(20, 44, 16, 48)
    labels = teacher((CAR, rectangle(22, 47, 18, 44)))
    refined = merge(labels, {CAR: true, ROAD: ~true})
    assert np.array_equal(refined.labels, teacher((CAR, true)))
    assert (refined.prompted, refined.accepted) == (2, 2)
    assert not refined.negatives.any()


def test_holes_are_filled() -> None:
    true = rectangle(20, 44, 16, 48)
    labels = teacher((CAR, true), (BUILDING, rectangle(30, 32, 30, 33)))
    assert np.array_equal(merge(labels, {CAR: true, ROAD: ~true}).labels, teacher((CAR, true)))


def test_without_a_mask_the_teacher_keeps_its_labels() -> None:
    labels = teacher((CAR, rectangle(20, 44, 16, 48)))
    refined = merge(labels, {})
    assert np.array_equal(refined.labels, labels)
    assert (refined.prompted, refined.accepted) == (2, 0)


@pytest.mark.parametrize(
    ("label", "mask"),
    [
        (CAR, rectangle(20, 28, 16, 48)),  # covers a third
        (CAR, rectangle(0, 64, 0, 64)),  # everything
        (CAR, rectangle(20, 64, 0, 64)),  # outgrows it
        (CAR, rectangle(50, 60, 16, 48)),  # somewhere else
        (ROAD, rectangle(0, 64, 0, 64) & ~rectangle(0, 64, 0, 20)),  # mostly road, but little of it
        (SKY, rectangle(0, 40, 0, 64)),  # mostly road
    ],
)
def test_masks_that_the_teacher_contradicts_are_refused(label: int, mask: np.ndarray) -> None:
    labels = teacher((CAR, rectangle(20, 44, 16, 48)), (SKY, rectangle(0, 14, 0, 64)))
    config = CONFIG.model_copy(update={"coverage": 0.8, "growth": 1.5})
    refined = merge(labels, {label: mask}, config)
    assert np.array_equal(refined.labels, labels)
    assert refined.accepted == 0


def test_a_thing_is_what_most_of_it_is_taken_for() -> None:
    whole = rectangle(20, 44, 16, 48)
    labels = teacher((BUS, whole), (CAR, rectangle(20, 44, 16, 24)), (TRUCK, rectangle(36, 44, 24, 30)))
    refined = merge(labels, {BUS: whole, CAR: whole, TRUCK: whole, ROAD: ~whole})
    assert np.array_equal(refined.labels, teacher((BUS, whole)))
    sure = np.where(labels == CAR, 1.0, 0.1).astype(np.float32)
    refined = merge(labels, {BUS: whole, CAR: whole, TRUCK: whole, ROAD: ~whole}, confidence=sure)
    assert (refined.labels[whole] == CAR).all()


def test_a_smaller_mask_lies_in_front_of_a_larger_one() -> None:
    front = rectangle(10, 60, 30, 34)
    labels = teacher((BUILDING, rectangle(0, 32, 0, 64)), (POLE, front))
    above = rectangle(0, 32, 0, 64)
    masks = {BUILDING: above, ROAD: ~above, POLE: front}
    for scores in ({POLE: 0.7}, {POLE: 0.9, BUILDING: 0.7}):
        assert np.array_equal(merge(labels, masks, scores=scores).labels, labels)


def test_of_two_masks_alike_in_size_the_more_trusted_wins() -> None:
    left, right = rectangle(20, 44, 0, 32), rectangle(20, 44, 32, 64)
    labels = teacher((CAR, left), (BUILDING, right), ground=SKY)
    masks = {CAR: rectangle(20, 44, 0, 36), BUILDING: rectangle(20, 44, 28, 64)}
    car = merge(labels, masks, scores={CAR: 0.9, BUILDING: 0.7}).labels
    assert (car[20:44, 28:36] == CAR).all()
    building = merge(labels, masks, scores={CAR: 0.7, BUILDING: 0.9}).labels
    assert (building[20:44, 28:36] == BUILDING).all()


def test_reliability_grows_away_from_borders_and_with_confidence() -> None:
    labels = teacher((CAR, rectangle(0, 64, 32, 64)), (255, rectangle(0, 2, 0, 64)))
    right = reliability(labels, None, 0.05)
    assert right.dtype == np.float32
    assert (right[:2] == 0).all()
    assert right[40, 31] == right[40, 32] == pytest.approx(0.4)
    assert (np.diff(right[40, 32:]) > 0).all()
    assert right[63, 63] > 0.99
    half = reliability(labels, np.full((64, 64), 0.25, np.float32), 0.05)
    assert half == pytest.approx(right / 2)
    assert (reliability(np.zeros((8, 8), np.uint8), None, 0.05) == 1).all()


def test_sam_does_not_outvote_a_teacher_far_from_its_borders() -> None:
    labels = teacher((CAR, rectangle(20, 44, 16, 48)))
    config = CONFIG.model_copy(update={"border": 0.03})
    refined = merge(labels, {CAR: rectangle(20, 36, 16, 48), ROAD: ~rectangle(20, 36, 16, 48)}, config)
    assert (refined.labels[43, 16:48] == ROAD).all()
    assert (refined.labels[38, 24:40] == CAR).all()
    unsure = np.full((64, 64), 0.4, np.float32)
    refined = merge(
        labels, {CAR: rectangle(20, 36, 16, 48), ROAD: ~rectangle(20, 36, 16, 48)}, config, unsure
    )
    assert (refined.labels[36:44, 16:48] == ROAD).all()


def test_what_sam_has_no_answer_to_is_left_to_the_teacher() -> None:
    labels = teacher((CAR, rectangle(20, 44, 16, 48)), (PERSON, rectangle(50, 60, 50, 56)))
    everything = np.ones((64, 64), bool)
    masks = {ROAD: everything, CAR: rectangle(20, 44, 16, 48), PERSON: rectangle(0, 8, 0, 8)}
    lost = merge(labels, masks, scores={PERSON: 0.7, CAR: 0.5})
    assert np.array_equal(lost.labels, teacher((CAR, rectangle(20, 44, 16, 48))))  # it saw no person there
    kept = merge(labels, masks, scores={PERSON: 0.5, CAR: 0.5})
    assert np.array_equal(kept.labels, labels)


def test_what_a_component_loses_to_no_other_is_ignored() -> None:
    labels = teacher((CAR, rectangle(20, 44, 16, 48)))
    masks = {CAR: rectangle(20, 40, 16, 48)}
    refined = merge(labels, masks)
    assert (refined.labels[40:44, 16:48] == 255).all()
    assert refined.ignored.sum() == 4 * 32
    kept = merge(labels, masks, CONFIG.model_copy(update={"disagreement": "teacher"}))
    assert np.array_equal(kept.labels, labels)


def test_small_parts_keep_their_labels_under_large_masks() -> None:
    config = CONFIG.model_copy(update={"smallest": 0.01})
    labels = teacher((POLE, rectangle(20, 40, 30, 32)), (BUILDING, rectangle(5, 10, 5, 10)))
    everything = np.ones((64, 64), bool)
    refined = merge(labels, {ROAD: everything}, config)
    assert (refined.labels[20:40, 30:32] == POLE).all()
    assert (refined.labels[5:10, 5:10] == ROAD).all()  # a speck of building is no small thing
    assert not refined.negatives.any()
    unsure = np.where(labels == POLE, 0.3, 0.9).astype(np.float32)
    assert (merge(labels, {ROAD: everything}, config, unsure).labels == ROAD).all()


def test_ignored_pixels_stay_unless_a_mask_covers_them() -> None:
    whole = rectangle(20, 44, 16, 48)
    labels = teacher((CAR, whole), (255, rectangle(28, 32, 20, 30)), (255, rectangle(0, 4, 0, 64)))
    refined = merge(labels, {CAR: whole})
    assert (refined.labels[whole] == CAR).all()
    assert (refined.labels[:4] == 255).all()


def test_a_rough_teacher_is_mended_by_a_good_sam() -> None:
    for seed in range(5):
        image, labels = scene(seed)
        colours = image.astype(int) @ np.array([1, 256, 65536])
        (refined,) = Refiner(ColourSam(), RefineConfig()).refine([image], [labels])
        truth = {c: np.bincount(labels[colours == c]).argmax() for c in np.unique(colours)}
        right = np.vectorize(truth.get)(colours)
        assert (refined.labels == right).mean() > (labels == right).mean()
        assert (refined.labels != right).mean() < 0.03


def test_an_image_without_labels_or_components() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    labels = np.full((64, 64), 255, np.uint8)
    (refined,) = Refiner(ColourSam(), RefineConfig()).refine([image], [labels])
    assert (refined.labels == 255).all()
    assert refined.ignored.all()
    assert refined.targets()[0] == []
    assert isinstance(plan_robust(labels, None, CONFIG), Plan)
