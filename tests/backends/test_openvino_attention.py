"""Attention that is cut into parts gives what it gave."""

from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.backends.openvino.attention import LARGE, cut_attention
from tests.openvino_models import HEADS, SIDE, attention, operations, outcome

PLACES = SIDE * SIDE


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("blocks", [1, 2, 16])
def test_heads_and_blocks_of_queries(batch: int, blocks: int) -> None:
    model = attention(batch)
    expected = outcome(model)
    assert cut_attention(model, large=0, part=4 * PLACES * PLACES // blocks) == 1
    assert operations(model).count("Softmax") == HEADS * blocks
    found = outcome(model)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-6
    assert cut_attention(model, large=4 * HEADS * PLACES * PLACES) == 0  # parts are no larger than was asked


def test_what_is_small_or_has_no_such_bias_stays() -> None:
    model = attention()
    before = operations(model)
    assert cut_attention(model) == 0
    assert operations(model) == before
    assert cut_attention(attention(biased=False), large=0) == 0
    assert cut_attention(attention(key_heads=1), large=0) == 0


def test_a_whole_image_of_vit_b_is_large_and_a_window_is_not() -> None:
    window, image = 4 * 16 * 196 * 196, 4 * 12 * 4096 * 4096
    assert window < LARGE <= image
