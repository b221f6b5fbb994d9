"""Class scores per pixel out of predicted segments, and the label maps that follow from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.models.clouds.mask_decoder import Prediction

Inference = Literal["exact", "fast"]
MASK_STRIDE = 4
"""Pixels of the network's input to one of a mask, in height and in width."""
_STRIP = 1 << 20
"""Pixels that are handled together where a map of an image's size is written."""
_MASK_STRIP = 1 << 16
"""Pixels to which all masks are enlarged together: 26 MB for 100 masks."""


def class_shares(prediction: Prediction) -> Tensor:
    """Shares of the classes in each segment.

    Returns:
        (B, C, Q) float32 in 0..1: softmax over classes and void, without void.
    """
    return prediction.class_logits.float().softmax(-1)[..., :-1].transpose(1, 2)


def class_scores(prediction: Prediction, size: tuple[int, int], inference: Inference = "exact") -> Tensor:
    """Class scores per pixel of predicted segments; see `Segmenter.scores`.

    Args:
        prediction: The last layer's prediction.
        size: (H, W) of the padded image, four times the mask size.
        inference: `exact` or `fast`.

    Returns:
        (B, C, H, W) float32.
    """
    classes = class_shares(prediction)
    masks = prediction.mask_logits.float()
    if inference == "exact":
        masks = F.interpolate(masks, size=size, mode="bilinear", align_corners=False)
        return torch.bmm(classes, masks.sigmoid().flatten(2)).view(masks.shape[0], -1, *size)
    sums = torch.bmm(classes, masks.sigmoid().flatten(2)).view(masks.shape[0], -1, *masks.shape[2:])
    return F.interpolate(sums, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Scores:
    """Class scores of images, computed from their segments where they are asked for.

    The masks of all segments at the images' size would take 4 Q bytes a pixel and the scores 4 C; strips of
    rows take a fixed amount, and hold the same values to the last bit: a row of the enlarged masks depends on
    two rows of the masks, and the way from 1 to 4 is exact in float32 wherever a strip begins.

    Attributes:
        classes: (B, C, Q) float32, see `class_shares`; (C, Q) of one image.
        masks: (B, Q, h, w) float32 logits at a quarter of the padded image; (Q, h, w) of one image.
        size: (H, W) of the images without padding.
    """

    classes: Tensor
    masks: Tensor
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """(B, C, H, W) of the scores; (C, H, W) of one image's."""
        return (*self.classes.shape[:-1], *self.size)

    @property
    def ndim(self) -> int:
        """4 for several images, 3 for one."""
        return len(self.shape)

    def __getitem__(self, number: int) -> Scores:
        """Scores of one of several images."""
        return Scores(self.classes[number], self.masks[number], self.size)

    def whole(self) -> Tensor:
        """All scores of one image: (C, H, W) float32."""
        found = self.classes.new_empty(self.shape)
        for rows, part in self._strips():
            found[:, rows] = part
        return found

    def labels(self, size: tuple[int, int], *, shares: bool = False) -> tuple[Tensor, Tensor | None]:
        """Label map of one image at a size of its own; see `labels_at`.

        Args:
            size: (H, W) afterwards. At the scores' own size no map of all scores is made.
            shares: Whether to compute confidences too.
        """
        if size != self.size:
            return labels_at(self.whole(), size, shares=shares)
        labels = torch.empty(size, dtype=torch.uint8, device=self.masks.device)
        trust = torch.empty_like(labels) if shares else None
        for rows, part in self._strips():
            own, sure = labels_at(part, (part.shape[1], part.shape[2]), shares=shares)
            labels[rows] = own
            if trust is not None and sure is not None:
                trust[rows] = sure
        return labels, trust

    def _strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Strips of one image's scores from top to bottom: their rows, and (C, rows, W) float32."""
        count, (height, width) = self.masks.shape[1], self.size
        step = max(1, _MASK_STRIP // (MASK_STRIDE**2 * self.masks.shape[2]))
        for top in range(0, min(count, -(-height // MASK_STRIDE)), step):
            bottom = min(count, top + step)
            # of one height, as PyTorch enlarges small maps by other code, whose last bits differ
            first = max(0, min(top - 1, count - step - 2))
            near = self.masks[None, :, first : first + step + 2]
            size = (MASK_STRIDE * near.shape[2], MASK_STRIDE * near.shape[3])
            large = F.interpolate(near, size=size, mode="bilinear", align_corners=False)[0]
            large = large[:, MASK_STRIDE * (top - first) : MASK_STRIDE * (bottom - first)].sigmoid()
            part = torch.mm(self.classes, large.flatten(1)).view(-1, *large.shape[1:])
            rows = slice(MASK_STRIDE * top, min(height, MASK_STRIDE * bottom))
            yield rows, part[:, : rows.stop - rows.start, :width]


def label_and_trust(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Label map and its confidence.

    Args:
        scores: (B, C, H, W) as from `Segmenter.scores`, not negative.

    Returns:
        labels (B, H, W) uint8, and confidence (B, H, W) float32 in 0..1: the best class's share of the sum of
        all scores, because masks that overlap or leave gaps make this sum more or less than one.
    """
    best, labels = scores.max(1)
    return labels.to(torch.uint8), best / scores.sum(1).clamp(min=1e-6)


def labels_at(scores: Tensor, size: tuple[int, int], *, shares: bool = False) -> tuple[Tensor, Tensor | None]:
    """Label map of one image at a size of its own, with few bytes a pixel.

    Scores are resized class by class, so that two float32 maps of the image's size exist instead of C; the
    labels are those of `label_and_trust` on all resized scores.

    Args:
        scores: (C, h, w) float32, not negative.
        size: (H, W) to resize to, bilinearly.
        shares: Whether to compute confidences too, at 4 more bytes a pixel.

    Returns:
        (H, W) uint8 labels, and, if asked for, (H, W) uint8 of 255 times the best class's share of scores.
    """

    def plane(index: int) -> Tensor:
        own = scores[index]
        if own.shape == size:
            return own
        return F.interpolate(own[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]

    best = plane(0).clone() if scores.shape[1:] == size else plane(0)
    total = best.clone() if shares else None
    labels = torch.zeros(size, dtype=torch.uint8, device=scores.device)
    step = max(1, _STRIP // size[1])
    strips = [slice(row, row + step) for row in range(0, size[0], step)]
    for index in range(1, len(scores)):
        one = plane(index)
        for rows in strips:
            labels[rows].masked_fill_(one[rows] > best[rows], index)
            torch.maximum(best[rows], one[rows], out=best[rows])
        if total is not None:
            total += one
        del one  # before the next is made
    if total is None:
        return labels, None
    trust = torch.empty(size, dtype=torch.uint8, device=scores.device)
    for rows in strips:
        trust[rows] = (255 * (best[rows] / total[rows].clamp(min=1e-6))).round().to(torch.uint8)
    return labels, trust
