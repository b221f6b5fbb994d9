"""Training augmentation of the method, image and label together (docs/explanation/method.md 3.4).

Every random draw comes from the given seed, so an augmented sample is a function of (image, seed). Only the
pixels of the crop are ever resized and coloured. The colour jitter is SSD's, whose ranges no library
offers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from clouds_deploy import seeds
from clouds_deploy.data.images import Pixels
from clouds_deploy.labels import IGNORE

BRIGHTNESS = 32.0
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
TRIES = 10
"""Crops that are tried for one with enough of a class, as in DAFormer."""
HUE = 18.0 / 180.0  # of a full turn: 18 steps of OpenCV's hue circle of 180


@dataclass(frozen=True)
class TrainTransform:
    """Random scale, crop, colour and flip of a labelled image.

    Attributes:
        crop: (height, width) of the result, in pixels.
        scale: Lowest and highest scale.
        base_size: (height, width) that scale 1 fits the image into; None means the image's own size.
        color_jitter: Whether to jitter colours.
        flip: Probability of a horizontal flip, 0..1.
        class_share: Minimum share of the crop that a wanted class fills, 0..1.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    base_size: tuple[int, int] | None = None
    color_jitter: bool = True
    flip: float = 0.5
    class_share: float = 0.0

    def __call__(
        self, image: Pixels, labels: Pixels, seed: int, wanted: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Augments one sample.

        Args:
            image: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 train ids.
            seed: Of all random draws.
            wanted: Train id of a class that is to be in the crop: of up to `TRIES` scales and crops the first
                with enough of it is taken, else the one with most.

        Returns:
            image (3, h, w) uint8 and labels (h, w) uint8 of the crop's size; where the scaled image is
            smaller, the image is 0 and the label `IGNORE`.
        """
        draw = seeds.generator(seed)
        cut = self._cut(labels.shape, draw)
        if wanted is not None:
            cut = self._with_class(cut, labels, wanted, seed)
        picture, truth = cut.picture(image), cut.truth(labels)
        if draw.random() < self.flip:
            picture, truth = picture.flip(-1), truth.flip(-1)
        if self.color_jitter:
            picture = jitter_colors(picture, draw)
        return picture.contiguous(), truth.contiguous()

    def _cut(self, shape: tuple[int, ...], draw: np.random.Generator) -> _Crop:
        """A random scale and crop."""
        scale = draw.uniform(*self.scale)
        height, width = shape
        base = self.base_size or (height, width)
        fit = scale * min(base[0] / height, base[1] / width)
        size = max(1, round(height * fit)), max(1, round(width * fit))
        return _random_crop((height, width), size, self.crop, draw)

    def _with_class(self, first: _Crop, labels: Pixels, wanted: int, seed: int) -> _Crop:
        """The first of several crops with enough of a class, or the one with most."""
        best, most = first, -1.0
        for attempt in range(TRIES):
            cut = first if attempt == 0 else self._cut(labels.shape, seeds.generator(seed, attempt))
            share = float((cut.truth(labels) == wanted).float().mean())
            if share > most:
                best, most = cut, share
            if share >= self.class_share:
                break
        return best


@dataclass(frozen=True)
class GeneratedTransform:
    """Two views of an unlabelled image: a clean one for the teacher, a jittered one for the student.

    Attributes:
        flip: Probability of a horizontal flip of both, 0..1.
        crop: (height, width) of the result, in pixels; an image of another size is resized to just
            cover it, and cropped at random. None keeps the image's size.
    """

    flip: float = 0.5
    crop: tuple[int, int] | None = None

    def __call__(
        self, image: Pixels, seed: int, labels: Pixels | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Computes both views.

        Args:
            image: (H, W, 3) uint8 RGB.
            seed: Of all random draws.
            labels: (H, W) uint8 train ids, if there are any.

        Returns:
            clean and jittered (3, h, w) uint8, and labels (h, w) uint8, all `IGNORE` where none were given.
        """
        draw = seeds.generator(seed)
        truth = np.full(image.shape[:2], IGNORE, np.uint8) if labels is None else labels
        height, width = image.shape[:2]
        if self.crop is None or self.crop == (height, width):
            clean, marks = torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(truth.copy())
        else:
            scale = max(self.crop[0] / height, self.crop[1] / width)
            size = (max(self.crop[0], round(height * scale)), max(self.crop[1], round(width * scale)))
            clean, marks = _resize_crop(image, truth, size, self.crop, draw)
        if draw.random() < self.flip:
            clean, marks = clean.flip(-1), marks.flip(-1)
        return clean.contiguous(), jitter_colors(clean, draw).contiguous(), marks.contiguous()


@dataclass(frozen=True)
class _Crop:
    """A crop of a resized image, padded where the image is smaller.

    Only the pixels of the crop are interpolated, so the cost does not grow with the scale. They may differ by
    rounding (two grey levels) from those of the whole resized image.

    Attributes:
        rows: Source pixels from top to bottom.
        columns: Source pixels from left to right.
        size: (height, width) with padding.
    """

    rows: _Cut
    columns: _Cut
    size: tuple[int, int]

    def picture(self, image: Pixels) -> Tensor:
        """The image's crop, (3, h, w) uint8; 0 where it is padded."""
        rows, columns = self.rows, self.columns
        window = Image.fromarray(image[rows.start : rows.stop, columns.start : columns.stop])
        box = (columns.low, rows.low, columns.high, rows.high)
        window = window.resize((columns.count, rows.count), Image.Resampling.BILINEAR, box=box)
        return self._padded(torch.from_numpy(np.array(window)).permute(2, 0, 1).contiguous(), 0)

    def truth(self, labels: Pixels) -> Tensor:
        """The label map's crop, (h, w) uint8; `IGNORE` where it is padded."""
        nearest = labels[self.rows.nearest()].take(self.columns.nearest(), axis=1)
        return self._padded(torch.from_numpy(nearest), IGNORE)

    def _padded(self, part: Tensor, value: int) -> Tensor:
        right, below = self.size[1] - self.columns.count, self.size[0] - self.rows.count
        if not right and not below:
            return part
        return torch.nn.functional.pad(part, (0, right, 0, below), value=value)


def _random_crop(
    shape: tuple[int, int], size: tuple[int, int], crop: tuple[int, int], draw: np.random.Generator
) -> _Crop:
    """Random crop of an image of a shape that is resized to `size`."""
    offsets = [int(draw.integers(0, max(have - want, 0) + 1)) for have, want in zip(size, crop, strict=True)]
    extents = [min(have, want) for have, want in zip(size, crop, strict=True)]
    rows, columns = (
        _Cut(length, whole, first, count)
        for length, whole, first, count in zip(shape, size, offsets, extents, strict=True)
    )
    return _Crop(rows, columns, crop)


def _resize_crop(
    image: Pixels,
    labels: Pixels,
    size: tuple[int, int],
    crop: tuple[int, int],
    draw: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Random crop, padded where needed, of image and labels resized to `size`."""
    cut = _random_crop((labels.shape[0], labels.shape[1]), size, crop, draw)
    return cut.picture(image), cut.truth(labels)


class _Cut:
    """Source pixels of a crop of a resized image, along one axis.

    Args:
        length: Pixels of the source.
        whole: Pixels of the resized image.
        first: First pixel of the crop in it.
        count: Pixels of the crop.
    """

    def __init__(self, length: int, whole: int, first: int, count: int) -> None:
        self.step = length / whole
        self.first, self.count, self.length = first, count, length
        low, high = first * self.step, min((first + count) * self.step, length)
        reach = math.ceil(max(self.step, 1.0)) + 1  # radius of the antialiasing triangle, and one more
        self.start, self.stop = max(0, int(low) - reach), min(length, math.ceil(high) + reach)
        self.low, self.high = low - self.start, high - self.start

    def nearest(self) -> npt.NDArray[np.intp]:
        """Nearest source pixel of each of the crop's pixels, (count,)."""
        centres = (np.arange(self.first, self.first + self.count) + 0.5) * self.step
        return np.minimum(centres.astype(np.intp), self.length - 1)


def jitter_colors(image: Tensor, draw: np.random.Generator) -> Tensor:
    """Colour jitter of SSD: brightness, contrast, saturation and hue, each with probability 1/2.

    Contrast comes before or after saturation and hue, at random (docs/explanation/method.md 3.4).

    Args:
        image: (3, H, W) uint8 RGB.
        draw: Source of the random draws.

    Returns:
        (3, H, W) uint8 RGB.
    """
    coins = draw.random(5) < 0.5
    brightness = draw.uniform(-BRIGHTNESS, BRIGHTNESS)
    contrast = draw.uniform(*CONTRAST)
    saturation = draw.uniform(*SATURATION)
    hue = draw.uniform(-HUE, HUE)
    x = image.float()
    if coins[0]:
        x = (x + brightness).clamp_(0, 255)
    if coins[1] and coins[4]:
        x = (x * contrast).clamp_(0, 255)
    if coins[2]:
        x = _saturate(x, saturation)
    if coins[3]:
        x = _turn_hue(x, hue)
    if coins[1] and not coins[4]:
        x = (x * contrast).clamp_(0, 255)
    return x.round_().to(torch.uint8)


def _saturate(x: Tensor, factor: float) -> Tensor:
    """Scales HSV's saturation: the distance of each channel from the largest one."""
    value = x.amax(0, keepdim=True)
    low = x.amin(0, keepdim=True)
    full = value / (value - low).clamp(min=1e-3)  # a larger factor would make a channel negative
    return value - (value - x) * torch.clamp(full, max=factor)


def _turn_hue(x: Tensor, turn: float) -> Tensor:
    """Rotates the hue by a share of the circle, saturation and value kept (HSV)."""
    value, low = x.amax(0), x.amin(0)
    chroma = value - low
    safe = chroma.clamp(min=1e-3)
    red, green, blue = x
    hue = torch.where(
        value == red,
        (green - blue).div_(safe),
        torch.where(value == green, (blue - red).div_(safe).add_(2.0), (red - green).div_(safe).add_(4.0)),
    )
    hue = hue.add_(6.0 * turn).remainder_(6.0)
    # each channel is a trapezoid of the hue (0..6), between the lowest channel and the highest
    weights = torch.empty_like(x)
    weights[0] = (hue - 3.0).abs_().sub_(1.0)
    weights[1] = (hue - 2.0).abs_().neg_().add_(2.0)
    weights[2] = (hue - 4.0).abs_().neg_().add_(2.0)
    return weights.clamp_(0.0, 1.0).mul_(chroma).add_(low)
