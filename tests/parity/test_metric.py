"""Our confusion matrix against torchmetrics' Jaccard index."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from clouds_deploy.evaluation.metrics import ConfusionMatrix


@pytest.fixture(scope="module")
def jaccard() -> Any:
    from clouds_deploy.models.libraries import library

    library("torchvision")
    return pytest.importorskip("torchmetrics.classification").MulticlassJaccardIndex


@pytest.mark.parametrize("classes", [19, 12])
def test_iou_and_miou_equal_torchmetrics(jaccard: Any, classes: int) -> None:
    random = np.random.default_rng(classes)
    target = random.integers(0, classes, (6, 40, 50)).astype(np.uint8)
    prediction = np.where(
        random.random(target.shape) < 0.6, target, random.integers(0, classes, target.shape)
    )
    prediction = prediction.astype(np.uint8)
    target[random.random(target.shape) < 0.1] = 255

    whole, halves = ConfusionMatrix(), (ConfusionMatrix(), ConfusionMatrix())
    for number, (guess, truth) in enumerate(zip(prediction, target, strict=True)):
        whole.update(guess, truth)
        halves[number % 2].update(guess, truth)
    halves[0].merge(halves[1])
    assert (halves[0].counts == whole.counts).all()

    theirs = {
        average: jaccard(19, average=average, ignore_index=255)(
            torch.from_numpy(prediction).long(), torch.from_numpy(target).long()
        )
        for average in ("none", "macro")
    }
    present = whole.present()
    assert present.sum() == classes
    np.testing.assert_allclose(whole.iou()[present], theirs["none"].numpy()[present], rtol=1e-6)
    assert np.isnan(whole.iou()[~present]).all()
    assert whole.miou() == pytest.approx(float(theirs["macro"]), rel=1e-6)
    assert whole.pixel_accuracy() == pytest.approx((prediction == target)[target != 255].mean())


def test_a_class_that_is_only_predicted_is_not_in_the_mean() -> None:
    matrix = ConfusionMatrix()
    matrix.update(np.array([0, 0, 5, 1], np.uint8), np.array([0, 0, 0, 255], np.uint8))
    assert matrix.miou() == pytest.approx(2 / 3)
    assert matrix.iou()[5] == 0.0
    assert np.isnan(matrix.iou()[1])


def test_the_best_blind_guess() -> None:
    matrix = ConfusionMatrix()
    matrix.update(np.array([0, 0, 0, 0], np.uint8), np.array([3, 3, 3, 7], np.uint8))
    blind = ConfusionMatrix()
    blind.update(np.array([3, 3, 3, 3], np.uint8), np.array([3, 3, 3, 7], np.uint8))
    assert matrix.best_constant_miou() == pytest.approx(blind.miou())


def test_nothing_counted_is_nan_and_nonsense_is_refused() -> None:
    matrix = ConfusionMatrix()
    matrix.update(np.zeros(3, np.uint8), np.full(3, 255, np.uint8))
    assert np.isnan(matrix.miou())
    assert np.isnan(matrix.best_constant_miou())
    with pytest.raises(ValueError, match="not one of the 19"):
        matrix.update(np.zeros(3, np.uint8), np.full(3, 20, np.uint8))
    with pytest.raises(ValueError, match="differ in shape"):
        matrix.update(np.zeros(3, np.uint8), np.zeros(4, np.uint8))
