from __future__ import annotations

import numpy as np
import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.letterbox import fit

GREY = (127, 100, 90)


def test_the_very_size_comes_back_unchanged(picture: np.ndarray) -> None:
    fitted, box = fit(picture, 64, 128, GREY)
    assert (fitted == picture).all()
    labels = np.arange(64 * 128, dtype=np.uint32).astype(np.uint8).reshape(64, 128)
    assert (box.restore(labels) == labels).all()


@pytest.mark.parametrize("times", [2, 3])
def test_multiples_fill_the_whole_size_and_come_back_by_repetition(picture: np.ndarray, times: int) -> None:
    large = picture.repeat(times, axis=0).repeat(times, axis=1)
    fitted, box = fit(large, 64, 128, GREY)
    assert (box.inner_height, box.inner_width) == (64, 128)
    assert np.abs(fitted.astype(int) - picture).mean() < 12  # smoothed at the borders of blocks only
    labels = np.random.default_rng(0).integers(0, 19, (64, 128)).astype(np.uint8)
    assert (box.restore(labels) == labels.repeat(times, axis=0).repeat(times, axis=1)).all()


def test_an_even_colour_stays_even_and_the_rest_is_filled() -> None:
    image = np.full((50, 50, 3), 200, np.uint8)
    fitted, box = fit(image, 64, 128, GREY)
    assert (box.inner_height, box.inner_width) == (64, 64)
    assert (fitted[:, :64] == 200).all()
    assert (fitted[:, 64:] == GREY).all()
    assert box.restore(np.zeros((64, 128), np.uint8)).shape == (50, 50)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (3000, 1), (63, 127), (719, 1280)])
def test_any_size_goes_in_and_comes_back(shape: tuple[int, int]) -> None:
    fitted, box = fit(np.zeros((*shape, 3), np.uint8), 64, 128, GREY)
    assert fitted.shape == (64, 128, 3)
    assert box.restore(np.zeros((64, 128), np.uint8)).shape == shape


def test_resizing_is_antialiased() -> None:
    """A one-pixel checkerboard becomes grey, not a pattern."""
    board = (np.indices((256, 512)).sum(axis=0) % 2 * 255).astype(np.uint8)
    fitted, _ = fit(np.repeat(board[..., None], 3, axis=2), 64, 128, GREY)
    assert np.abs(fitted.astype(int) - 127).max() < 20


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_refuses_what_is_no_image(image: np.ndarray) -> None:
    with pytest.raises(CloudsError, match="is no RGB image"):
        fit(image, 64, 128, GREY)
