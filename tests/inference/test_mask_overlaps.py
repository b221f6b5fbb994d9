from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.inference.agreement import mask_overlaps


def test_overlaps_of_all_pixels_and_of_each_mask() -> None:
    expected = np.full((3, 3, 20, 20), -1.0, np.float32)
    expected[0, 1, :10] = 1.0  # half of the image
    expected[1, 0, 0, :3] = 1.0  # three pixels; the third prompt's mask is empty
    scores = np.array([[0.1, 0.9, 0.2], [0.9, 0.8, 0.7], [0.1, 0.2, 0.3]], np.float32)
    found = expected.copy()
    found[:, 2] = -found[:, 0]  # not what the reference rates best, so it doesn't count; but prompt 3's is
    found[2, 2] = -1.0
    overall, each, sizable = mask_overlaps(found, expected, scores)
    assert overall == 1.0
    assert each.tolist() == [1.0, 1.0, 1.0]
    assert sizable.tolist() == [True, False, False]

    found[0, 1, 10, :10] = 1.0  # ten pixels too many
    found[1, 0, 0, 1:3] = -1.0  # two of three lost
    overall, each, _ = mask_overlaps(found, expected, scores)
    assert overall == pytest.approx(201 / 213)
    assert each.tolist() == pytest.approx([200 / 210, 1 / 3, 1.0])


def test_nothing_in_any_mask() -> None:
    nothing = np.full((2, 3, 8, 8), -1.0, np.float32)
    overall, each, sizable = mask_overlaps(nothing, nothing, np.zeros((2, 3), np.float32))
    assert overall == 1.0
    assert each.tolist() == [1.0, 1.0]
    assert not sizable.any()
