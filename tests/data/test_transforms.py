from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from clouds_deploy.data.transforms import (
    HUE,
    GeneratedTransform,
    TrainTransform,
    _resize_crop,
    _saturate,
    _turn_hue,
    jitter_colors,
)
from tests.data.trees import picture


def coded(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose colour is its label, in blocks large enough to survive resizing inside."""
    labels = np.random.default_rng(0).integers(0, 19, (height // 32, width // 32), dtype=np.uint8)
    labels = labels.repeat(32, 0).repeat(32, 1)
    return np.repeat(labels[..., None] * 10 + 30, 3, axis=2), labels


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("base", [None, (64, 128)])
def test_image_and_labels_stay_paired(seed: int, base: tuple[int, int] | None) -> None:
    image, labels = coded(96, 192)
    transform = TrainTransform((64, 96), base_size=base, color_jitter=False)
    x, y = transform(image, labels, seed)
    assert (x.shape, y.shape) == ((3, 64, 96), (64, 96))
    assert (x.dtype, y.dtype) == (torch.uint8, torch.uint8)
    valid = y != 255
    error = (x[0].float() - (y.float() * 10 + 30)).abs()
    assert (error[valid] <= 2).float().mean() > 0.75  # the rest are pixels on borders
    assert (x[:, ~valid] == 0).all()


def test_scale_follows_the_base_size() -> None:
    image, labels = coded(96, 192)
    transform = TrainTransform((192, 384), scale=(1.0, 1.0), base_size=(48, 192), color_jitter=False, flip=0)
    _, y = transform(image, labels, 0)
    assert (y != 255).sum() == 48 * 96  # fits 48x192 keeping 1:2


def test_a_function_of_the_seed() -> None:
    image, labels = coded(96, 192)
    transform = TrainTransform((64, 96))
    first, again, other = (transform(image, labels, seed) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_flip_is_half_of_the_time() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[:, :16] = 1
    image = np.zeros((32, 32, 3), np.uint8)
    transform = TrainTransform((32, 32), scale=(1.0, 1.0), color_jitter=False)
    flipped = sum(int(transform(image, labels, seed)[1][0, 0] == 0) for seed in range(400))
    assert 150 < flipped < 250


def test_hue_and_saturation_are_hsv() -> None:
    pixels = torch.from_numpy(picture(3, 8, 8)).permute(2, 0, 1).float()
    for turn in (-HUE, 0.03, 0.5):
        turned = _turn_hue(pixels, turn)
        for index in range(64):
            r, g, b = (pixels.flatten(1)[:, index] / 255).tolist()
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            expected = torch.tensor(colorsys.hsv_to_rgb((h + turn) % 1, s, v)) * 255
            assert torch.allclose(turned.flatten(1)[:, index], expected, atol=0.1)
    for factor in (0.5, 1.5):
        changed = _saturate(pixels, factor)
        for index in range(64):
            r, g, b = (pixels.flatten(1)[:, index] / 255).tolist()
            h, s, v = colorsys.rgb_to_hsv(r, g, b)
            expected = torch.tensor(colorsys.hsv_to_rgb(h, min(1.0, s * factor), v)) * 255
            assert torch.allclose(changed.flatten(1)[:, index], expected, atol=0.2)


def test_jitter_leaves_some_images_alone_and_moves_most() -> None:
    pixels = torch.from_numpy(picture(3, 16, 16)).permute(2, 0, 1)
    same = sum(torch.equal(jitter_colors(pixels, np.random.default_rng(s)), pixels) for s in range(200))
    assert 2 <= same <= 30  # 1/16 in the mean


def test_two_views_share_geometry() -> None:
    image, _ = coded(32, 64)
    clean, student, labels = GeneratedTransform()(image, seed=5)
    assert (labels == 255).all()
    assert clean.shape == student.shape == (3, 32, 64)
    assert {torch.equal(GeneratedTransform()(image, s)[0][0, :, 0], clean[0, :, 0]) for s in range(8)} == {
        True,
        False,
    }


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_is_cut_from_the_resized_image(seed: int) -> None:
    image, labels = picture(seed, 90, 130), picture(seed, 90, 130)[..., 0]
    draw = np.random.default_rng(seed)
    scale = draw.uniform(0.4, 2.2)
    size = round(90 * scale), round(130 * scale)
    x, y = _resize_crop(image, labels, size, (64, 80), np.random.default_rng(seed))
    again = np.random.default_rng(seed)
    top, left = (int(again.integers(0, max(a - b, 0) + 1)) for a, b in zip(size, (64, 80), strict=True))
    whole = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[top : top + 64, left : left + 80].astype(int)
    height, width = expected.shape[:2]
    assert np.abs(x.permute(1, 2, 0).numpy()[:height, :width] - expected).max() <= 2
    rows, columns = (
        ((np.arange(n) + 0.5) * (have / n)).astype(int) for have, n in zip((90, 130), size, strict=True)
    )
    nearest = labels[rows[:, None], columns][top : top + 64, left : left + 80]
    assert np.array_equal(y.numpy()[:height, :width], nearest)
