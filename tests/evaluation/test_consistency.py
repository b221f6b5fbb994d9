from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.evaluation.consistency import constancy, flow_consistency, video_consistency
from clouds_deploy.labels import IGNORE

U = IGNORE


def frames(*rows: list[int]) -> list[np.ndarray]:
    return [np.array([row], np.uint8) for row in rows]


def test_a_case_counted_by_hand() -> None:
    truth = frames([1, 1, 2, 2, U, 3], [1, 1, 2, 2, U, 3], [1, 2, 2, 2, U, 3])
    guess = frames([1, 1, 2, 0, 5, 3], [1, 1, 2, 0, 5, 3], [1, 2, 0, 0, 5, 3])
    # frames 1, 2: five pixels keep their true class; right in both are 1, 1, 2 and 3, constant are all five
    # frames 2, 3: four keep it (1, 2, 2, 3); right in both are 1 and 3; constant are 1, 0 and 3
    assert video_consistency(truth, guess, 2) == [4 / 5, 2 / 4]
    assert constancy(truth, guess, 2) == [5 / 5]  # VSPW's script leaves the last window out
    assert video_consistency(truth, guess, 3) == [2 / 4]
    assert video_consistency(truth, guess, 4) == []
    assert video_consistency(truth, truth, 2) == [1.0, 1.0]


def test_windows_without_a_constant_pixel_are_left_out() -> None:
    truth = frames([1], [2], [2])
    assert video_consistency(truth, truth, 2) == [1.0]


def test_consistency_under_flow_by_hand() -> None:
    now, then = np.array([[1, 2, 3, 4]], np.uint8), np.array([[0, 1, 2, 9]], np.uint8)
    flow = np.zeros((1, 4, 2), np.float32)
    flow[..., 0] = 1.2
    hidden = np.zeros((1, 4), bool)
    # 1 and 2 keep their label one pixel to the right, 3 becomes 9, 4 leaves the picture
    assert flow_consistency(now, then, flow, hidden) == (2, 3)
    hidden[0, 2] = True
    assert flow_consistency(now, then, flow, hidden) == (2, 2)


@pytest.mark.parametrize("length", [8, 16])
def test_agrees_with_vspws_formula_on_random_labels(length: int) -> None:
    generator = np.random.default_rng(length)
    truth = [np.where(generator.random((8, 9)) < 0.02, 1, 0).astype(np.uint8) for _ in range(20)]
    guess = [np.where(generator.random((8, 9)) < 0.03, 1, t).astype(np.uint8) for t in truth]
    expected = []
    for i in range(20 - length + 1):
        s, p = np.stack(truth[i : i + length]), np.stack(guess[i : i + length])
        both = (s == s[0]).all(0)
        expected.append((both & (p == s).all(0)).sum() / both.sum())
    assert video_consistency(truth, guess, length) == pytest.approx(expected)
