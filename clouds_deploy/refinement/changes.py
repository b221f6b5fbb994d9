"""What refinement changed, counted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds_deploy.labels import NAMES, NUM_CLASSES
from clouds_deploy.refinement.components import Labels

Counts = npt.NDArray[np.int64]


def count_changes(before: Labels, after: Labels) -> Counts:
    """Count the pairs of labels that occur.

    Args:
        before: (H, W) uint8 train ids or 255.
        after: The same shape.

    Returns:
        (n, 3) int64: before, after, pixels; 19 stands for no label.
    """
    size = NUM_CLASSES + 1
    a, b = (np.minimum(labels, NUM_CLASSES).ravel().astype(np.intp) for labels in (before, after))
    pixels = np.bincount(a * size + b)
    (pairs,) = pixels.nonzero()
    return np.stack((pairs // size, pairs % size, pixels[pairs]), -1).astype(np.int64)


def add_changes(many: Iterable[Counts]) -> Counts:
    """Sum the counts of many images: (20, 20) int64, row = before, column = after."""
    total = np.zeros((NUM_CLASSES + 1, NUM_CLASSES + 1), np.int64)
    for changes in many:
        total[changes[:, 0], changes[:, 1]] += changes[:, 2]
    return total


def summarize_changes(total: Counts) -> dict[str, Any]:
    """Say in shares what became of the labels.

    Returns:
        `agreement`, `changed` and `unlabelled`: shares of the pixels that had a label, which add up to 1,
        null without any; and `per_class`, by name: `before` and `after`, shares of all pixels, and the same
        three of the pixels that had this class.
    """
    pixels = int(total.sum())
    classes = {}
    for index, name in enumerate(NAMES):
        shares = _shares(total[index], total[index, index])
        classes[name] = {
            "before": int(total[index].sum()) / pixels if pixels else 0.0,
            "after": int(total[:, index].sum()) / pixels if pixels else 0.0,
            **shares,
        }
    labelled = total[:NUM_CLASSES]
    return {**_shares(labelled.sum(0), int(np.diag(total)[:NUM_CLASSES].sum())), "per_class": classes}


def _shares(row: Counts, same: int) -> dict[str, float | None]:
    count = int(row.sum())
    if not count:
        return {"agreement": None, "changed": None, "unlabelled": None}
    lost = int(row[NUM_CLASSES])
    return {
        "agreement": int(same) / count,
        "changed": (count - int(same) - lost) / count,
        "unlabelled": lost / count,
    }
