"""A part of a step's batch, whose loss is its exact share of the whole batch's loss.

Processes share a batch, and each may divide its share into parts that fit into memory. The losses of all
parts add up to the loss of the whole batch in one process, to rounding: they are divided by the same numbers,
and every image is compared at the same points.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clouds_deploy.training.segmenter.points import Draw


@dataclass(frozen=True)
class Whole:
    """Numbers of the whole batch that its parts need.

    Attributes:
        pairs: For each image of the batch, how many pairs a layer has of it: its number of classes, or of
            queries if these are fewer.
        segments: Segments in the batch's ground truth.
    """

    pairs: tuple[int, ...]
    segments: int


@dataclass(frozen=True)
class BatchPart:
    """Neighbouring images of a batch.

    Attributes:
        whole: The batch.
        first: Number of the first image in the batch.
        images: Number of images.
    """

    whole: Whole
    first: int
    images: int

    def drawing(self, draw: Draw) -> Draw:
        """The part's share of the random numbers of the batch.

        All of them are drawn, and most discarded: that needs some memory for a moment, and makes the result
        independent of how the batch is divided.
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
        """Sum of the class weights of all queries in a layer, over the batch."""
        pairs = sum(self.whole.pairs)
        return pairs + void_weight * (len(self.whole.pairs) * queries - pairs)


def count_pairs(present: Tensor, queries: int) -> tuple[Tensor, Tensor]:
    """Number of matched pairs in a layer, and of segments, of each image.

    Args:
        present: (B, C) bool, see `points.present_classes`.
        queries: Q.

    Returns:
        Both (B,) int64.
    """
    segments = present.sum(1)
    return torch.clamp(segments, max=queries), segments
