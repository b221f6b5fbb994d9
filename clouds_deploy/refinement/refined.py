"""What refinement makes of a label map: labels, and whether a pixel without one counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from clouds_deploy.labels import IGNORE, NUM_CLASSES
from clouds_deploy.refinement.components import Labels, Mask


@dataclass(frozen=True)
class Refined:
    """Refined labels of one image.

    A pixel without a label is one of two things: ignored, so that no loss counts it, or a plain negative,
    which is in no segment and tells the student so. A PNG has 255 for both; which one it means is a fact of
    the whole folder, because each mode makes only one kind (docs/decisions/0003-ignored-or-negative.md).

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
        """Where no loss may count, (H, W) bool."""
        shared = np.zeros_like(self.negatives)
        for mask in self.overlaps.values():
            shared |= mask
        return np.asarray((self.labels == IGNORE) & ~self.negatives & ~shared)

    def targets(self) -> tuple[list[int], Mask]:
        """Give the segments that mask classification learns from (docs/method.md 3.1).

        A class that lost all its pixels has no segment. (The authors keep an empty one, an oversight:
        docs/method.md 10.)

        Returns:
            Train ids and (K, H, W) bool masks, which overlap only where `overlaps` says so.
        """
        there = set(np.unique(self.labels).tolist()) | {c for c, m in self.overlaps.items() if m.any()}
        classes = sorted(c for c in there if c < NUM_CLASSES)
        masks = np.zeros((len(classes), *self.labels.shape), np.bool_)
        for mask, label in zip(masks, classes, strict=True):
            np.equal(self.labels, label, out=mask)
            if label in self.overlaps:
                mask |= self.overlaps[label]
        return classes, masks


def unchanged(labels: Labels, *, negative: bool, prompted: int = 0) -> Refined:
    """Keep a label map as it is.

    Args:
        labels: (H, W) uint8 train ids or 255.
        negative: Whether its 255 are plain negatives rather than ignored.
        prompted: Components that SAM was asked about, in vain.
    """
    without = labels == IGNORE
    return Refined(labels, without if negative else np.zeros_like(without), prompted=prompted)
