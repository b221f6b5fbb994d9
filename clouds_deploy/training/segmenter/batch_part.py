"""A part of a step's batch, whose loss is its exact share of the whole batch's loss.

Processes share a batch, and each may cut its share into parts that fit into memory. The losses of all parts
add up to what one process computes for the whole batch, to rounding: they are divided by the same numbers,
and every image is looked at in the same places.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clouds_deploy.training.segmenter.points import Draw


@dataclass(frozen=True)
class Whole:
    """What parts must know of the batch.

    Attributes:
        pairs: For each image of the batch, how many pairs a layer has of it: its number of classes, or of
            queries if these are fewer.
        segments: Segments in the batch's ground truth.
    """

    pairs: tuple[int, ...]
    segments: int


@dataclass(frozen=True)
class BatchPart:
    """Some neighbouring images of a batch.

    Attributes:
        whole: The batch.
        first: The place of the first of them in the batch.
        images: How many they are.
    """

    whole: Whole
    first: int
    images: int

    def drawing(self, draw: Draw) -> Draw:
        """Give the part's share of the random numbers that are drawn for the batch.

        All are drawn, and most thrown away: that costs some memory for a moment, and makes the outcome
        independent of how the batch is cut.
        """
        last = self.first + self.images
        before, after = sum(self.whole.pairs[: self.first]), sum(self.whole.pairs[:last])
        batch, pairs = len(self.whole.pairs), sum(self.whole.pairs)

        def own(purpose: str, shape: tuple[int, ...]) -> Tensor:
            if purpose == "matching":  # (L, images, P, 2)
                return draw(purpose, (shape[0], batch, *shape[2:]))[:, self.first : last]
            layers = shape[0] // (after - before)  # (L * pairs, P, 2)
            full = draw(purpose, (layers * pairs, *shape[1:])).view(layers, pairs, *shape[1:])
            return full[:, before:after].flatten(0, 1)

        return own

    def class_weight(self, queries: int, void_weight: float) -> float:
        """Sum the weights of all queries' classes in a layer, over the batch."""
        pairs = sum(self.whole.pairs)
        return pairs + void_weight * (len(self.whole.pairs) * queries - pairs)


def count_pairs(present: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Count, image by image, the pairs of a layer and the segments.

    Args:
        present: (B, C) bool, see `points.present_classes`.
        queries: Q.

    Returns:
        Both (B,) int64.
    """
    segments = present.sum(1)
    return torch.clamp(segments, max=queries), segments
