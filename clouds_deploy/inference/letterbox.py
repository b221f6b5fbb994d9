"""Fits an image of any size into a graph of one size, and its labels back to the image's size."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds_deploy.errors import CloudsError

Picture = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies inside the graph's input.

    Attributes:
        height: The image's own height.
        width: The image's own width.
        inner_height: Rows that it fills, from the top.
        inner_width: Columns that it fills, from the left.
    """

    height: int
    width: int
    inner_height: int
    inner_width: int

    def restore(self, labels: Picture) -> Picture:
        """Resizes labels back to the image's own size.

        Args:
            labels: (H, W) uint8 at the graph's size.

        Returns:
            (height, width) uint8, by nearest neighbour.
        """
        inner = labels[: self.inner_height, : self.inner_width]
        if inner.shape == (self.height, self.width):
            return np.ascontiguousarray(inner)
        picture = Image.fromarray(np.ascontiguousarray(inner))
        return np.asarray(picture.resize((self.width, self.height), Image.Resampling.NEAREST))


def fit(image: Picture, height: int, width: int, color: tuple[int, int, int]) -> tuple[Picture, Letterbox]:
    """Resizes an image as far as it fits, aspect kept, and fills the rest at the right or the bottom.

    Args:
        image: (h, w, 3) uint8 RGB.
        height: Height to fill.
        width: Width to fill.
        color: RGB of the filling, best what the network normalises to zero.

    Returns:
        (height, width, 3) uint8, resized bilinearly with antialiasing, and the way back. An image of the
        very size comes back unchanged.

    Raises:
        CloudsError: It is no such image.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
        raise CloudsError(
            f"an image of shape {list(image.shape)} and type {image.dtype} is no RGB image",
            "give (height, width, 3) uint8",
        )
    own_height, own_width = image.shape[:2]
    scale = min(height / own_height, width / own_width)
    inner_height = min(height, max(1, round(own_height * scale)))
    inner_width = min(width, max(1, round(own_width * scale)))
    box = Letterbox(own_height, own_width, inner_height, inner_width)
    if (inner_height, inner_width) != (own_height, own_width):
        picture = Image.fromarray(np.ascontiguousarray(image))
        image = np.asarray(picture.resize((inner_width, inner_height), Image.Resampling.BILINEAR))
    if (inner_height, inner_width) == (height, width):
        return np.ascontiguousarray(image), box
    filled = np.empty((height, width, 3), np.uint8)
    filled[:] = color
    filled[:inner_height, :inner_width] = image
    return filled, box
