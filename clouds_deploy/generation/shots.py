"""A few pictures of a domain, cropped for the tuning of a diffusion model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from clouds_deploy import seeds
from clouds_deploy.artifacts import sha256
from clouds_deploy.console import warn
from clouds_deploy.data.images import IMAGE_SUFFIXES, Pixels, files_inside, read_image
from clouds_deploy.errors import CloudsError

_KEPT = 64
"""Scaled pictures in memory; streets of 2048x1024 take longer to read than a small model needs for a step."""


class Shots:
    """Pictures of one kind, in random crops.

    A picture is scaled until it just covers the crop, whose position is random: street images are
    wide, and their middle alone would show little more than the road.

    Args:
        folder: Their folder; every one is read once, so that a damaged one is reported before any work.
        flip: Whether to mirror half of the crops, at random.

    Raises:
        CloudsError: The folder is not there or holds no image; an image is damaged.
    """

    def __init__(self, folder: Path, *, flip: bool = False) -> None:
        if not folder.is_dir():
            raise CloudsError(f"there is no folder {folder}", "give a folder with a few images of the domain")
        self.folder, self.flip, self.size = folder, flip, (0, 0)
        self.paths = files_inside(folder, IMAGE_SUFFIXES)
        if not self.paths:
            raise CloudsError(f"{folder} holds no images", f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
        self._sizes = [read_image(path).shape[:2] for path in self.paths]

    def cut_to(self, size: tuple[int, int]) -> None:
        """Sets the crop size of `draw`: (height, width) pixels."""
        self.size = size
        self._scaled = lru_cache(maxsize=_KEPT)(self._read)
        small = [p for p, own in zip(self.paths, self._sizes, strict=True) if _factor(own, size) > 1]
        if small:
            warn(f"{len(small)} images are smaller than {size[0]}x{size[1]} and are enlarged: {small[0]}")

    def __len__(self) -> int:
        return len(self.paths)

    def hashes(self) -> dict[str, str]:
        """The sha256 of each image, by its path in the folder."""
        return {path.relative_to(self.folder).as_posix(): sha256(path) for path in self.paths}

    def _read(self, index: int) -> tuple[Pixels, tuple[int, int]]:
        pixels = read_image(self.paths[index])
        height, width = pixels.shape[:2]
        factor = _factor((height, width), self.size)
        wide, high = max(round(width * factor), self.size[1]), max(round(height * factor), self.size[0])
        scaled = Image.fromarray(pixels).resize((wide, high), Image.Resampling.LANCZOS)
        return np.asarray(scaled), (height, width)

    def draw(self, sample: int, seed: int) -> tuple[Tensor, Tensor]:
        """Sample number `sample` of an endless sequence, in which every image is equally frequent.

        Args:
            sample: Its number, from 0.
            seed: Of the run; the sample is a function of both.

        Returns:
            (3, h, w) float32 in -1..1, and (6,) float32 for SDXL: the picture's own height
            and width, the crop's top and left after scaling, the crop's height and width.
        """
        epoch, place = divmod(sample, len(self))
        index = int(seeds.generator(seed, epoch, seeds.SHOT_ORDER).permutation(len(self))[place])
        scaled, original = self._scaled(index)
        dice = seeds.generator(seed, sample, seeds.SHOT_CROP)
        (high, wide), (height, width) = self.size, scaled.shape[:2]
        top, left = int(dice.integers(height - high + 1)), int(dice.integers(width - wide + 1))
        crop = scaled[top : top + high, left : left + wide]
        if self.flip and dice.random() < 0.5:
            crop, left = crop[:, ::-1], width - wide - left
        pixels = torch.from_numpy(crop.astype(np.float32)).permute(2, 0, 1) / 127.5 - 1
        return pixels, torch.tensor([*original, top, left, high, wide], dtype=torch.float32)


def _factor(own: tuple[int, ...], size: tuple[int, int]) -> float:
    """Scale at which an image just covers a crop."""
    return max(size[0] / own[0], size[1] / own[1])
