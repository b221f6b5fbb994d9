"""The connected parts of a label map: what SAM is asked about."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from clouds_deploy.labels import NUM_CLASSES

Labels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


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
        """Give x and y of the upper left and the lower right corner, in pixels, the latter outside."""
        rows, columns = self.box
        return (float(columns.start), float(rows.start)), (float(columns.stop), float(rows.stop))


def find_components(labels: Labels, above: float) -> list[Component]:
    """List the parts of every class that are large enough (docs/method.md 3.6).

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
    """Give the rows and columns of a mask that holds something."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _moved(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)
