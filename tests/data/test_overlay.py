from __future__ import annotations

import numpy as np

from clouds_deploy.data.overlay import legend, overlay, overlay_with_legend, shares
from clouds_deploy.labels import CLASSES
from tests.data.trees import picture, train_ids


def test_ignored_pixels_show_the_image() -> None:
    image, labels = picture(0), np.full((32, 48), 255, np.uint8)
    assert np.array_equal(overlay(image, labels), image)


def test_full_opacity_is_the_palette() -> None:
    labels = np.full((32, 48), 13, np.uint8)
    assert (overlay(picture(0), labels, 1.0) == CLASSES[13].color).all()


def test_borders_are_dark() -> None:
    labels = np.zeros((4, 6), np.uint8)
    labels[:, 3:] = 1
    out = overlay(np.full((4, 6, 3), 200, np.uint8), labels)
    assert (out[:, 3].sum(-1) < out[:, 4].sum(-1)).all()


def test_shares_and_legend() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[0] = 10
    labels[1] = 255
    assert shares(labels) == [(0, 0.8), (10, 0.1)]
    for width in (256, 640, 2048):
        strip = legend(labels, width)
        assert strip.shape[1] == width
        colors = {tuple(int(v) for v in c) for c in strip.reshape(-1, 3)}
        assert {CLASSES[0].color, CLASSES[10].color} <= colors
        assert CLASSES[13].color not in colors


def test_small_images_are_enlarged() -> None:
    out = overlay_with_legend(picture(0, 64, 128), train_ids(0, 64, 128))
    assert out.shape[1] >= 640
    empty = overlay_with_legend(picture(0), np.full((32, 48), 255, np.uint8))
    assert empty.dtype == np.uint8


def test_blending_is_exact_to_a_grey_level() -> None:
    image, labels = picture(1, 16, 16), np.full((16, 16), 8, np.uint8)
    expected = image * 0.45 + np.array(CLASSES[8].color) * 0.55
    assert np.abs(overlay(image, labels, 0.55) - expected).max() < 1.2
