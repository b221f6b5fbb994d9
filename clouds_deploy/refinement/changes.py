"""Refined labels of an image, and counts of what refinement changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds_deploy.labels import CITYSCAPES, IGNORE, NUM_CLASSES, LabelSet
from clouds_deploy.refinement.components import Labels, Mask

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Refined:
    """Refined labels of one image.

    A pixel without a label is one of two things: ignored, so that no loss counts it, or a plain negative,
    which is in no segment and tells the student so. A PNG has 255 for both; which one it means is a fact of
    the whole folder, because each mode makes only one kind
    (docs/explanation/decisions/0003-ignored-or-negative.md).

    Attributes:
        labels: (H, W) uint8 train ids; 255 where there is none.
        negatives: (H, W) bool, where no label means "none of the classes"; elsewhere 255 means "not known".
        overlaps: By train id, (H, W) bool, pixels that are in several classes' segments at once; their label
            is 255. Only official refinement that keeps intersections makes any.
        prompted: Components that SAM was asked about.
        accepted: Components whose mask was taken.
    """

    labels: Labels
    negatives: Mask
    overlaps: Mapping[int, Mask] = field(default_factory=dict)
    prompted: int = 0
    accepted: int = 0

    @property
    def ignored(self) -> Mask:
        """Pixels that no loss may count, (H, W) bool."""
        shared = np.zeros_like(self.negatives)
        for mask in self.overlaps.values():
            shared |= mask
        return np.asarray((self.labels == IGNORE) & ~self.negatives & ~shared)

    def targets(self) -> tuple[list[int], Mask]:
        """The segments that mask classification learns from (docs/explanation/method.md 3.1).

        A class that lost all its pixels has no segment. (The authors keep an empty one, an oversight:
        docs/explanation/method.md 10.)

        Returns:
            Train ids and (K, H, W) bool masks, which overlap only where `overlaps` says so.
        """
        there = set(np.unique(self.labels).tolist()) | {c for c, m in self.overlaps.items() if m.any()}
        classes = sorted(c for c in there if c != IGNORE)
        masks = np.zeros((len(classes), *self.labels.shape), np.bool_)
        for mask, label in zip(masks, classes, strict=True):
            np.equal(self.labels, label, out=mask)
            if label in self.overlaps:
                mask |= self.overlaps[label]
        return classes, masks


def unchanged(labels: Labels, *, negative: bool, prompted: int = 0) -> Refined:
    """A label map that stays as it is.

    Args:
        labels: (H, W) uint8 train ids or 255.
        negative: Whether its 255 are plain negatives rather than ignored.
        prompted: Components that SAM was asked about, in vain.
    """
    without = labels == IGNORE
    return Refined(labels, without if negative else np.zeros_like(without), prompted=prompted)


def count_changes(before: Labels, after: Labels, classes: int = NUM_CLASSES) -> Counts:
    """Counts the pairs of labels that occur.

    Args:
        before: (H, W) uint8 train ids or 255.
        after: The same shape.
        classes: Number of classes.

    Returns:
        (n, 3) int64: before, after, pixels; the number of classes stands for no label.
    """
    size = classes + 1
    a, b = (np.minimum(labels, classes).ravel().astype(np.intp) for labels in (before, after))
    pixels = np.bincount(a * size + b)
    (pairs,) = pixels.nonzero()
    return np.stack((pairs // size, pairs % size, pixels[pairs]), -1).astype(np.int64)


def add_changes(many: Iterable[Counts], classes: int = NUM_CLASSES) -> Counts:
    """Sum of the counts of many images: (classes + 1,) * 2 int64, row = before, column = after."""
    total = np.zeros((classes + 1, classes + 1), np.int64)
    for changes in many:
        total[changes[:, 0], changes[:, 1]] += changes[:, 2]
    return total


def summarize_changes(total: Counts, label_set: LabelSet = CITYSCAPES) -> dict[str, Any]:
    """Shares of the labels that stayed, changed and were lost.

    Args:
        total: What `add_changes` gave.
        label_set: The classes.

    Returns:
        `agreement`, `changed` and `unlabelled`: shares of the pixels that had a label, which add up to 1,
        null without any; and `per_class`, by name: `before` and `after`, shares of all pixels, and the same
        three of the pixels that had this class.
    """
    pixels = int(total.sum())
    classes = {}
    for index, name in enumerate(label_set.names):
        shares = _shares(total[index], total[index, index])
        classes[name] = {
            "before": int(total[index].sum()) / pixels if pixels else 0.0,
            "after": int(total[:, index].sum()) / pixels if pixels else 0.0,
            **shares,
        }
    labelled = total[:-1]
    return {**_shares(labelled.sum(0), int(np.diag(total)[:-1].sum())), "per_class": classes}


def _shares(row: Counts, same: int) -> dict[str, float | None]:
    count = int(row.sum())
    if not count:
        return {"agreement": None, "changed": None, "unlabelled": None}
    lost = int(row[-1])
    return {
        "agreement": int(same) / count,
        "changed": (count - int(same) - lost) / count,
        "unlabelled": lost / count,
    }
