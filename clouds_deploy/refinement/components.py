"""Connected components of a label map, which SAM is asked about, and points deep inside them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cc3d
import edt
import numpy as np
import numpy.typing as npt

from clouds_deploy.labels import NUM_CLASSES

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
_STRIP = 1 << 22
"""Pixels that are counted together: counting makes 8 bytes of each."""
_GRID = 96
"""Larger regions are sampled on a grid of about this many rows and columns, which is fine enough."""


@dataclass(frozen=True)
class Component:
    """A 4-connected part of one class.

    Attributes:
        label: Its train id.
        box: The rows and the columns that it spans.
        area: Its pixels.
        numbered: (H, W) whole numbers, shared by all components of a label map.
        index: This component's number there.
    """

    label: int
    box: tuple[slice, slice]
    area: int
    numbered: npt.NDArray[Any] = field(repr=False, compare=False)
    index: int

    @property
    def mask(self) -> Mask:
        """Where in the box it is, (h, w) bool; made anew each time, for boxes may be large."""
        return np.asarray(self.numbered[self.box] == self.index, np.bool_)

    def corners(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """X and y of the upper left and the lower right corner in pixels, the latter just outside."""
        rows, columns = self.box
        return (float(columns.start), float(rows.start)), (float(columns.stop), float(rows.stop))


def find_components(labels: Labels, above: float, classes: int = NUM_CLASSES) -> list[Component]:
    """Lists the components of every class that are large enough (docs/explanation/method.md 3.6).

    Args:
        labels: (H, W) uint8 train ids; what is no class is in no component.
        above: A component needs more pixels than this.
        classes: Number of classes.

    Returns:
        The components by class, and within a class by their first pixel in reading order.
    """
    known = labels < classes
    numbered, count = cc3d.connected_components(
        np.where(known, labels + np.uint8(1), np.uint8(0)), connectivity=4, return_N=True
    )
    if not count:
        return []
    areas = _count(numbered, count)
    kept = np.flatnonzero(areas[1:] > above) + 1
    if not len(kept):
        return []
    # The others are left out first: a noisy map has millions, and each would cost hundreds of bytes
    table = np.zeros(count + 1, np.min_scalar_type(len(kept)))
    table[kept] = np.arange(1, len(kept) + 1)
    numbered = table[numbered]
    boxes = cc3d.statistics(numbered)["bounding_boxes"]
    label_of = np.zeros(len(kept) + 1, np.uint8)
    label_of[numbered] = labels
    found = []
    for index, area in enumerate(areas[kept], start=1):
        rows, columns = (slice(int(side.start), int(side.stop)) for side in boxes[index][:2])
        found.append(Component(int(label_of[index]), (rows, columns), int(area), numbered, index))
    return sorted(found, key=lambda component: component.label)


def _count(numbered: npt.NDArray[Any], count: int) -> npt.NDArray[np.int64]:
    """Pixels of each number, 0 to `count`."""
    areas, flat = np.zeros(count + 1, np.int64), numbered.ravel()
    for start in range(0, flat.size, _STRIP):
        part = np.bincount(flat[start : start + _STRIP])
        areas[: len(part)] += part
    return areas


def distance_outside(
    mask: Mask, kind: type[np.floating] = np.float64, *, closed: bool = False
) -> npt.NDArray[Any]:
    """Euclidean distance of each pixel of a mask to the nearest pixel outside it.

    Args:
        mask: (H, W) bool.
        kind: Type of the result; roots are taken in float64.
        closed: Whether what lies beyond the array is outside.

    Returns:
        (H, W), exact up to 4096 pixels in float64; 0 outside the mask.
    """
    squares = edt.edtsq(np.ascontiguousarray(mask), black_border=closed)
    distances = np.empty(squares.shape, kind)
    step = max(1, _STRIP // squares.shape[1])
    for row in range(0, len(squares), step):  # float64 takes eight times the room of the mask
        distances[row : row + step] = np.sqrt(squares[row : row + step].astype(np.float64))
    return distances


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
    depth = distance_outside(seen, closed=True)
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
