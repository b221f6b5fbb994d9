from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from clouds_deploy.config.sam import SamTinyConfig
from clouds_deploy.models.sam.tiny import build_sam_tiny
from clouds_deploy.streets import render
from clouds_deploy.training.sam.evaluate import asked, click, evaluate_sam, overlap, things
from clouds_deploy.training.sam.prompts import interior_points


def sam() -> Any:
    torch.manual_seed(0)
    return build_sam_tiny(SamTinyConfig(image_size=128, prompt_width=32, decoder_feedforward=32))


@pytest.mark.parametrize("single", [True, False])
def test_answers_equal_sam_predictors(single: bool) -> None:
    model, image = sam(), render("photo", 3, 0, 64, 128).image
    from segment_anything import SamPredictor

    predictor = SamPredictor(model)
    predictor.set_image(image)
    ask = asked(model, image)
    points, labels = np.array([[[20.0, 30.0], [90.0, 7.0]], [[5.0, 60.0], [64.0, 32.0]]]), np.array([1, 0])
    before = None
    for _ in range(2):  # the second time with the mask before
        found, logits = ask(torch.tensor(points).float(), torch.tensor([[1.0, 0.0]] * 2), before, single)
        assert found.shape == (2, 64, 128)
        for number in range(2):
            masks, ratings, lows = predictor.predict(
                points[number], labels, mask_input=None if before is None else before[number].numpy(),
                multimask_output=not single,
            )  # fmt: skip
            best = int(ratings.argmax())
            assert np.abs(logits[number, 0].numpy() - lows[best]).max() < 1e-4
            assert (found[number].numpy() != masks[best]).mean() < 1e-3
        before = logits


def test_clicks_correct_what_was_wrong() -> None:
    truth = torch.zeros(2, 20, 30, dtype=torch.bool)
    truth[0, 5:15, 5:15] = True
    truth[1, 2:9, 20:27] = True
    calls = []

    def ask(points: Tensor, labels: Tensor, before: Tensor | None, single: bool) -> tuple[Tensor, Tensor]:
        calls.append((points, labels, before, single))
        guess = truth.clone()
        guess[0, 5:15, 10:15] = False  # lacks half
        guess[1, 12:17, 5:10] = True  # leaks
        return guess, torch.full((2, 1, 5, 5), float(len(calls)))

    masks = click(ask, truth, 3)
    assert len(masks) == 3
    assert [single for *_, single in calls] == [False, True, True]
    assert [None if before is None else before[0, 0, 0, 0].item() for _, _, before, _ in calls] == [
        None,
        1,
        2,
    ]
    first, last = calls[0], calls[2]
    assert first[0].tolist() == [[[9.0, 9.0]], [[23.0, 5.0]]]
    assert last[0].shape == (2, 3, 2)
    assert last[1].tolist() == [[1.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
    assert last[0][1, 0].tolist() == [7.0, 14.0]


def test_overlap_is_the_iou_and_nothing_against_nothing_is_none() -> None:
    mask = torch.zeros(3, 4, 4, dtype=torch.bool)
    mask[0, :2], mask[1, :1] = True, True
    assert overlap(mask, mask.roll(1, 1)).tolist() == pytest.approx([1 / 3, 0.0, 0.0])


def test_evaluation_averages_over_instances() -> None:
    scenes = [render("photo", 3, i, 64, 128) for i in range(3)]
    model = sam()
    whole = evaluate_sam(model, scenes)
    assert set(whole) == {"iou_1", "iou_5", "clicks_1", "clicks_5", "instances"}
    assert whole["instances"] == sum(len(things(scene)) for scene in scenes)
    single = [evaluate_sam(model, [scene], clicks=0) for scene in scenes[:1]]
    assert "clicks_5" not in single[0]
    truth = torch.from_numpy(np.stack(things(scenes[0])))
    place = interior_points(truth, 1, torch.Generator().manual_seed(1))
    found, _ = asked(model, scenes[0].image)(place, torch.ones(len(truth), 1), None, False)
    assert single[0]["iou_1"] == pytest.approx(100 * float(overlap(found, truth).mean()), abs=1e-4)
    assert evaluate_sam(model, []) == dict.fromkeys(whole, 0)
