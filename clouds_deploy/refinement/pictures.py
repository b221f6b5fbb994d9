"""Before and after, side by side, for people to look at."""

from __future__ import annotations

import numpy as np

from clouds_deploy.data.images import Pixels
from clouds_deploy.data.overlay import legend, overlay


def before_and_after(image: Pixels, before: Pixels, after: Pixels) -> Pixels:
    """Draw an image under its labels before and after refinement, with a legend of both.

    Small images are enlarged, large ones thinned out, to about 640 pixels of width each.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: (H, W) uint8 train ids.
        after: The same shape; pixels without a label show the image.

    Returns:
        (h, w, 3) uint8 RGB: the image, before and after from left to right.
    """
    width = image.shape[1]
    times, step = max(1, -(-480 // width)), max(1, width // 640)
    parts = [
        np.ascontiguousarray(part[::step, ::step]).repeat(times, 0).repeat(times, 1)
        for part in (image, overlay(image, before), overlay(image, after))
    ]
    gap = np.full((parts[0].shape[0], 8, 3), 255, np.uint8)
    strip = np.hstack([parts[0], gap, parts[1], gap, parts[2]])
    return np.vstack([strip, legend(np.stack((before, after)), strip.shape[1])])
