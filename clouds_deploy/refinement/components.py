"""Connected components of a label map, which SAM is asked about, and points deep inside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clouds_deploy.labels import NUM_CLASSES

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_GRID = 96
"""Larger regions are sampled on a grid of about this many rows and columns, which is fine enough."""


@dataclass(frozen=True)
class Component:
    """A 4-connected part of one class.

    Attributes:
        label: Its train id, 0..18.
        box: The rows and the columns that it spans.
        mask: (h, w) bool, where in the box it is.
        area: Its pixels.
    """

    label: int
    box: tuple[slice, slice]
    mask: Mask
    area: int

    def corners(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """X and y of the upper left and the lower right corner in pixels, the latter just outside."""
        rows, columns = self.box
        return (float(columns.start), float(rows.start)), (float(columns.stop), float(rows.stop))


def find_components(labels: Labels, above: float) -> list[Component]:
    """Lists the components of every class that are large enough (docs/explanation/method.md 3.6).

    Args:
        labels: (H, W) uint8 train ids; everything above 18 is in no component.
        above: A component needs more pixels than this.

    Returns:
        The components by class, and within a class by their first pixel in reading order.
    """
    found = []
    counts = np.bincount(labels.ravel(), minlength=256)[:NUM_CLASSES]
    for label in np.flatnonzero(counts > above):
        everywhere = labels == label
        rows, columns = _extent(everywhere)
        numbered, _ = ndimage.label(everywhere[rows, columns])
        areas = np.bincount(numbered.ravel())
        for index, box in enumerate(ndimage.find_objects(numbered), start=1):
            if areas[index] > above:
                place = (_moved(box[0], rows.start), _moved(box[1], columns.start))
                found.append(Component(int(label), place, numbered[box] == index, int(areas[index])))
    return found


def _extent(mask: Mask) -> tuple[slice, slice]:
    """The rows and columns of a mask that hold something."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def interior_points(
    mask: Mask, count: int, weight: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Pixels that are far from the region's border, from each other, and certain of their class.

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
