from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from clouds_deploy.training.sam.prompts import (
    boxes,
    corrected,
    correction,
    first_prompts,
    interior_points,
    middles,
)


def masks() -> torch.Tensor:
    found = torch.zeros(3, 20, 30, dtype=torch.bool)
    found[0, 2:5, 4:9] = True
    found[1, 19, 29] = True
    found[2] = True
    return found


def inside(where: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    x, y = points[..., 0].long(), points[..., 1].long()
    return where[torch.arange(len(where))[:, None], y, x]


def test_interior_points_lie_inside() -> None:
    points = interior_points(masks(), 50, torch.Generator().manual_seed(0))
    assert points.shape == (3, 50, 2)
    assert inside(masks(), points).all()
    assert len(points[0].unique(dim=0)) > 5


def test_boxes_are_near_their_masks() -> None:
    corners = torch.stack([boxes(masks(), torch.Generator().manual_seed(i)) for i in range(300)])
    tight = torch.tensor([[[4.0, 2], [9, 5]], [[29, 19], [30, 20]], [[0, 0], [30, 20]]])
    assert ((corners.mean(0) - tight).abs() <= 1.5).all()  # the noise is cut at the image's ends
    assert (corners >= 0).all()
    assert (corners[..., 0] <= 30).all()
    assert (corners[..., 1] <= 20).all()
    assert 0.02 < corners[:, 0, 0, 0].std() / 5 < 0.2


@pytest.mark.parametrize("seed", range(20))
def test_first_prompts_are_of_one_of_four_kinds(seed: int) -> None:
    points, labels = first_prompts(masks(), np.random.default_rng(seed), torch.Generator().manual_seed(seed))
    assert points.shape == (*labels.shape, 2)
    assert (labels == labels[0]).all()
    kinds = labels[0].tolist()
    count = kinds.count(1.0)
    assert kinds in ([1.0] * count + [2.0, 3.0], [1.0] * count + [-1.0])
    assert 0 <= count <= 6
    assert inside(masks(), points[:, :count]).all()


def test_corrections_lie_in_the_error() -> None:
    truth = masks()
    guess = truth.clone()
    guess[0, 2:5, 4:6] = False
    guess[1, 0, 0] = True
    points, labels = torch.zeros(3, 1, 2), torch.ones(3, 1)
    more, kinds = correction(points, labels, truth, guess, torch.Generator().manual_seed(0))
    assert more.shape == (3, 2, 2)
    assert kinds[:, 0].tolist() == [1.0, 0.0, 1.0]  # it lacks something, it leaks, it is right
    assert bool((truth[0] & ~guess[0])[int(more[0, 0, 1]), int(more[0, 0, 0])])
    assert more[1, 0].tolist() == [0.0, 0.0]


def test_the_middle_is_farthest_from_the_boundary() -> None:
    ring = masks()[2:].clone()
    ring[0, 6:, :] = False  # a band along the upper edge, which is a boundary
    ring[0, 1:4, 10:] = False
    assert middles(torch.cat((masks()[:2], ring))).tolist() == [[[5.0, 3.0]], [[29.0, 19.0]], [[2.0, 2.0]]]


def test_a_correction_may_take_the_middle_of_the_error() -> None:
    truth = masks()[:1]
    guess = truth.clone()
    guess[0, 10:15, 10:15] = True
    more, kinds = correction(torch.zeros(1, 1, 2), torch.ones(1, 1), truth, guess, None)
    assert more[0, 0].tolist() == [12.0, 12.0]
    assert kinds.tolist() == [[0.0, 1.0]]


def test_rounds_correct_the_mask_rated_best_then_the_single_one() -> None:
    truth = masks()[:2]
    guesses = truth[:, None].repeat(1, 4, 1, 1)
    guesses[:, 0, 0, 0] = True  # the single mask leaks in a corner, the second of three in another one
    guesses[:, 2, 0, -1] = True
    logits = torch.where(guesses, 4.0, -4.0)
    seen = []

    def decode(points: torch.Tensor, labels: torch.Tensor, before: torch.Tensor | None) -> Any:
        seen.append((points.shape[1], before))
        return logits, torch.tensor([[0.9, 0.1, 0.8, 0.2]]).repeat(2, 1)

    points, labels, mask = corrected(
        decode, torch.zeros(2, 1, 2), torch.ones(2, 1), truth, 3, torch.Generator().manual_seed(0)
    )
    assert [count for count, _ in seen] == [1, 2, 3]
    assert seen[0][1] is None
    assert seen[1][1] is not None
    assert torch.equal(seen[1][1], logits[:, 2:3])
    assert torch.equal(mask, logits[:, :1])
    assert labels.tolist() == [[0.0, 0.0, 0.0, 1.0]] * 2
    assert points[0].tolist() == [[0.0, 0.0], [0.0, 0.0], [truth.shape[2] - 1.0, 0.0], [0.0, 0.0]]
