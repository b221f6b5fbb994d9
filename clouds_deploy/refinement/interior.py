"""Points deep inside a region, far from each other: prompts that do not depend on a throw of the dice."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clouds_deploy.refinement.components import Mask

_GRID = 96
"""Larger regions are looked at through a grid of about this many rows and columns: it is fine enough."""


def interior_points(
    mask: Mask, count: int, weight: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Choose pixels that are far from the region's border, from each other, and sure of their class.

    The first is the deepest one; each further one is where the smaller of the depth and half the distance to
    those chosen is largest. All are pixels of the region.

    Args:
        mask: (h, w) bool, the region; beyond the array is outside.
        count: How many at most; a region with fewer pixels gets fewer.
        weight: (h, w) float in 0..1, the teacher's confidence; None counts all alike.

    Returns:
        (n, 2) float32, x and y of pixels, from the array's corner, 1 <= n <= count.
    """
    step = max(1, -(-max(mask.shape) // _GRID))
    seen = mask[::step, ::step]
    if step > 1 and np.count_nonzero(seen) < count:  # thinner than the grid
        step, seen = 1, mask
    depth = ndimage.distance_transform_edt(np.pad(seen, 1))[1:-1, 1:-1]
    if weight is not None:
        depth = depth * weight[::step, ::step]
    rows, columns = np.nonzero(seen)
    worth = depth[rows, columns]
    apart = np.full(len(rows), np.inf)
    chosen: list[int] = []
    for _ in range(min(count, len(rows))):
        best = int(np.argmax(np.minimum(worth, apart / 2)))
        if chosen and apart[best] == 0:
            break
        chosen.append(best)
        apart = np.minimum(apart, np.hypot(rows - rows[best], columns - columns[best]))
    return np.asarray(np.stack((columns[chosen], rows[chosen]), -1) * step, np.float32)
