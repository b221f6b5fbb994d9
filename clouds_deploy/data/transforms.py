"""Training augmentation of the method, image and label together (docs/method.md 3.4).

Every draw comes from the seed handed in, so an augmented sample is a function of (image, seed). Resizing and
flipping are torchvision v2's; the colour jitter is the SSD one, whose ranges no library offers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from clouds_deploy.data.images import Pixels
from clouds_deploy.labels import IGNORE
from clouds_deploy.torchvision_compat import ensure_torchvision

BRIGHTNESS = 32.0
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE = 18.0 / 180.0  # of a full turn: 18 steps of OpenCV's hue circle of 180


@dataclass(frozen=True)
class TrainTransform:
    """Random scale, crop, colour and flip of a labelled image.

    Attributes:
        crop: (height, width) of what comes out, in pixels.
        scale: Lowest and highest scale.
        base_size: (height, width) that scale 1 fits the image into; None means the image's own size.
        color_jitter: Whether to jitter colours.
        flip: Probability of a horizontal flip, 0..1.
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    base_size: tuple[int, int] | None = None
    color_jitter: bool = True
    flip: float = 0.5

    def __call__(self, image: Pixels, labels: Pixels, seed: int) -> tuple[Tensor, Tensor]:
        """Augment.

        Args:
            image: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 train ids.
            seed: What every draw derives from.

        Returns:
            image (3, h, w) uint8 and labels (h, w) uint8 of the crop's size; where the scaled image does
            not fill it, the image is 0 and the label `IGNORE`.
        """
        draw = np.random.default_rng(seed)
        scale = draw.uniform(*self.scale)
        height, width = image.shape[:2]
        base = self.base_size or (height, width)
        fit = scale * min(base[0] / height, base[1] / width)
        size = max(1, round(height * fit)), max(1, round(width * fit))
        picture = torch.from_numpy(image).permute(2, 0, 1)
        truth = torch.from_numpy(labels)
        picture, truth = _resize_crop(picture, truth, size, self.crop, draw)
        if draw.random() < self.flip:
            picture, truth = picture.flip(-1), truth.flip(-1)
        if self.color_jitter:
            picture = jitter_colors(picture, draw)
        return picture.contiguous(), truth.contiguous()


@dataclass(frozen=True)
class GeneratedTransform:
    """Two views of an unlabelled image: a clean one for the teacher, a jittered one for the student.

    Attributes:
        flip: Probability of a horizontal flip of both, 0..1.
    """

    flip: float = 0.5

    def __call__(self, image: Pixels, seed: int) -> tuple[Tensor, Tensor]:
        """Give (clean, jittered), each (3, H, W) uint8, of an (H, W, 3) uint8 image."""
        draw = np.random.default_rng(seed)
        clean = torch.from_numpy(image).permute(2, 0, 1)
        if draw.random() < self.flip:
            clean = clean.flip(-1)
        return clean.contiguous(), jitter_colors(clean, draw).contiguous()


def _resize_crop(
    image: Tensor,
    labels: Tensor,
    size: tuple[int, int],
    crop: tuple[int, int],
    draw: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Resize both to `size`, then cut or pad to `crop` at a random place."""
    ensure_torchvision()
    from torchvision.transforms.v2 import functional as v2

    offsets, extents = [], []
    for have, want in zip(size, crop, strict=True):
        offsets.append(int(draw.integers(0, max(have - want, 0) + 1)))
        extents.append(min(have, want))
    top, left = offsets
    high, wide = extents
    if tuple(image.shape[1:]) != size:
        image = v2.resize(image, list(size), v2.InterpolationMode.BILINEAR, antialias=True)
        labels = v2.resize(labels[None], list(size), v2.InterpolationMode.NEAREST_EXACT)[0]
    image = image[:, top : top + high, left : left + wide]
    labels = labels[top : top + high, left : left + wide]
    if (high, wide) != crop:
        pad = (0, crop[1] - wide, 0, crop[0] - high)
        image = torch.nn.functional.pad(image, pad, value=0)
        labels = torch.nn.functional.pad(labels, pad, value=IGNORE)
    return image, labels


def jitter_colors(image: Tensor, draw: np.random.Generator) -> Tensor:
    """Jitter colours as SSD does: brightness, contrast, saturation and hue, each with probability 1/2.

    Contrast comes before or after saturation and hue, at random (docs/method.md 3.4).

    Args:
        image: (3, H, W) uint8 RGB.
        draw: Where the draws come from.

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
    """Scale HSV's saturation: the distance of each channel from the largest one."""
    value = x.amax(0, keepdim=True)
    low = x.amin(0, keepdim=True)
    full = value / (value - low).clamp(min=1e-3)  # beyond this factor a channel would fall below zero
    return value - (value - x) * torch.clamp(full, max=factor)


def _turn_hue(x: Tensor, turn: float) -> Tensor:
    """Rotate the hue by a share of the circle, saturation and value kept (HSV)."""
    value, low = x.amax(0), x.amin(0)
    chroma = value - low
    safe = chroma.clamp(min=1e-3)
    red, green, blue = x
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2.0, (red - green) / safe + 4.0),
    )
    hue = sector + 6.0 * turn
    # each channel is a trapezoid of the hue: value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6
    channels = []
    for shift in (5.0, 3.0, 1.0):
        k = torch.remainder(hue + shift, 6.0)
        channels.append(value - chroma * torch.minimum(k, 4.0 - k).clamp(0, 1))
    return torch.stack(channels)
