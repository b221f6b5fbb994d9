"""The whole way from images and clicks to masks, next to `segment_anything.SamPredictor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from clouds_deploy.inference.sam import Sam, torch_sam
from tests.models.sam_cases import NAMES, model, pictures, small_sam

if TYPE_CHECKING:
    from segment_anything import SamPredictor

SIZES = ((90, 120), (301, 77), (64, 64))
INDEX = np.array([0, 2, 1, 1, 0, 2, 1])


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> tuple[Sam, list[SamPredictor], list[np.ndarray]]:
    from segment_anything import SamPredictor

    images = pictures(*SIZES)
    predictors = []
    for image in images:
        predictor = SamPredictor(small_sam(request.param))
        predictor.set_image(image)
        predictors.append(predictor)
    return torch_sam(model(request.param)), predictors, images


def places(count: int, seed: int = 0) -> np.ndarray:
    """Draw points inside each prompt's image."""
    rng = np.random.default_rng(seed)
    limits = np.array([SIZES[i][::-1] for i in INDEX])[:, None, :]
    return rng.uniform(0, 1, (len(INDEX), count, 2)) * limits


def theirs(predictor: SamPredictor, **given: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ask the official predictor as its users do, with prompts in the original image's pixels."""
    transform, size = predictor.transform, predictor.original_size
    points = labels = boxes = None
    if "points" in given:
        points = torch.as_tensor(transform.apply_coords(given["points"], size), dtype=torch.float)[None]
        labels = torch.as_tensor(given["labels"], dtype=torch.int)[None]
    if "box" in given:
        boxes = torch.as_tensor(transform.apply_boxes(given["box"], size), dtype=torch.float)
    masks, scores, low = predictor.predict_torch(points, labels, boxes, multimask_output=True)
    return masks[0].numpy(), scores[0].numpy(), low[0].numpy()


def test_embeddings(case: tuple[Sam, list[SamPredictor], list[np.ndarray]]) -> None:
    sam, predictors, images = case
    embedded = sam.embed(images)
    assert embedded.sizes == SIZES
    for i, predictor in enumerate(predictors):
        np.testing.assert_allclose(embedded.features[i], predictor.features[0].numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", ["points", "boxes", "both"])
def test_masks_and_scores(case: tuple[Sam, list[SamPredictor], list[np.ndarray]], kind: str) -> None:
    sam, predictors, images = case
    points, labels = places(3), np.random.default_rng(1).integers(0, 2, (len(INDEX), 3))
    corners = np.sort(places(2, seed=2), axis=1)
    corner_labels = np.tile([2, 3], (len(INDEX), 1))
    if kind == "points":
        given = points, labels
    elif kind == "boxes":
        given = corners, corner_labels
    else:
        given = np.concatenate((points, corners), 1), np.concatenate((labels, corner_labels), 1)
    low, scores = sam.prompt(sam.embed(images), INDEX, *given)
    assert low.dtype == scores.dtype == np.float32
    for p, image in enumerate(INDEX):
        asked: dict[str, Any] = {}
        if kind != "boxes":
            asked |= {"points": points[p], "labels": labels[p]}
        if kind != "points":
            asked |= {"box": corners[p].reshape(1, 4)}
        masks, wanted_scores, wanted_low = theirs(predictors[image], **asked)
        np.testing.assert_allclose(low[p], wanted_low, rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores[p], wanted_scores, rtol=0, atol=1e-5)
        assert np.array_equal(sam.masks(wanted_low, SIZES[image]), masks)
        differ = sam.masks(low[p], SIZES[image]) != masks
        assert differ.mean() < 1e-3


def test_prompts_with_and_without_a_box_in_one_call(
    case: tuple[Sam, list[SamPredictor], list[np.ndarray]],
) -> None:
    sam, predictors, images = case
    points = np.sort(places(2), axis=1)
    labels = np.array([[2, 3] if p % 2 else [1, 0] for p in range(len(INDEX))])
    low, scores = sam.prompt(sam.embed(images), INDEX, points, labels)
    for p, image in enumerate(INDEX):
        asked = {"box": points[p].reshape(1, 4)} if p % 2 else {"points": points[p], "labels": labels[p]}
        _, wanted_scores, wanted_low = theirs(predictors[image], **asked)
        np.testing.assert_allclose(low[p], wanted_low, rtol=0, atol=1e-4)
        np.testing.assert_allclose(scores[p], wanted_scores, rtol=0, atol=1e-5)
