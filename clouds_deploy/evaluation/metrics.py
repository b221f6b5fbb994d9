"""Intersection over union of label maps, from a confusion matrix."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt

from clouds_deploy.labels import IGNORE, NUM_CLASSES

_PART = 1 << 20
"""Pixels that are counted together: an image's own size costs no more memory."""


class ConfusionMatrix:
    """Pixel counts by true and predicted class; every score derives from them.

    Args:
        num_classes: How many classes there are; labels are 0..num_classes-1 and `IGNORE`.

    Attributes:
        counts: (num_classes, num_classes) int64; row = truth, column = prediction.
    """

    def __init__(self, num_classes: int = NUM_CLASSES) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8]) -> None:
        """Counts one or more label maps.

        Args:
            prediction: uint8 labels of any shape, all of them classes wherever the target is one.
            target: uint8 labels of the same shape; pixels of `IGNORE` are not counted.

        Raises:
            ValueError: The shapes differ, or a counted pixel holds no class.
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {prediction.shape} and target {target.shape} differ in shape")
        found = np.zeros_like(self.counts)
        guesses, truths = np.ascontiguousarray(prediction).ravel(), np.ascontiguousarray(target).ravel()
        for start in range(0, truths.size, _PART):
            part = slice(start, start + _PART)
            counted = truths[part] != IGNORE
            truth, guess = truths[part][counted].astype(np.int64), guesses[part][counted]
            if truth.size and max(int(truth.max()), int(guess.max())) >= self.num_classes:
                raise ValueError(f"a label is not one of the {self.num_classes} classes")
            pairs = np.bincount(truth * self.num_classes + guess, minlength=self.num_classes**2)
            found += pairs.reshape(self.num_classes, self.num_classes)
        self.counts += found

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another matrix."""
        self.counts += other.counts

    def present(self) -> npt.NDArray[np.bool_]:
        """Classes that occur in the ground truth: (num_classes,) bool."""
        return np.asarray(self.counts.sum(axis=1) > 0)

    def iou(self) -> npt.NDArray[np.float64]:
        """Intersection over union of each class.

        Returns:
            (num_classes,) float64 in 0..1; NaN for a class in neither ground truth nor prediction, 0 for
            one that was only predicted.
        """
        hits = np.diag(self.counts).astype(np.float64)
        union = self.counts.sum(axis=0) + self.counts.sum(axis=1) - np.diag(self.counts)
        return np.where(union > 0, hits / np.maximum(union, 1), np.nan)

    def miou(self, classes: Collection[int] | None = None) -> float:
        """Mean intersection over union of the classes in the ground truth (docs/explanation/method.md 5).

        Args:
            classes: Average these only. What was counted stays: a pixel of another class that is taken for
                one of them counts against it, as where a model of 19 classes is judged on SYNTHIA's 16.

        Returns:
            The mean intersection over union in 0..1; NaN without any such class in the ground truth.
        """
        chosen = self.present()
        if classes is not None:
            chosen &= np.isin(np.arange(self.num_classes), list(classes))
        return float(self.iou()[chosen].mean()) if chosen.any() else float("nan")

    def pixel_accuracy(self) -> float:
        """Share of the counted pixels with the right label; NaN when none was counted."""
        total = int(self.counts.sum())
        return float(np.diag(self.counts).sum()) / total if total else float("nan")

    def best_constant_miou(self) -> float:
        """The mIoU of the best constant guess, one class everywhere: a lower bound for any model."""
        truth = self.counts.sum(axis=1)
        total = int(truth.sum())
        return float(truth.max()) / total / int((truth > 0).sum()) if total else float("nan")
