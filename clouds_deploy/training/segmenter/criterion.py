"""The losses of mask classification, with deep supervision (docs/explanation/method.md 3.1; Mask2Former).

Class: cross-entropy of every query, with a small weight for void. Mask: binary cross-entropy and dice of the
matched pairs, at points. Each layer is matched by itself; all have the same weight and are computed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.config.recipe import LossConfig
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.training.segmenter.batch_part import BatchPart
from clouds_deploy.training.segmenter.matcher import Matches, match
from clouds_deploy.training.segmenter.points import (
    Draw,
    sample_maps,
    segment_shares,
    touching,
    uncertain_points,
)


@dataclass(frozen=True)
class Losses:
    """Unweighted losses of every layer.

    Attributes:
        class_loss: (L,) cross-entropy.
        mask_loss: (L,) binary cross-entropy at points.
        dice_loss: (L,) dice at points.
    """

    class_loss: Tensor
    mask_loss: Tensor
    dice_loss: Tensor

    def parts(self, config: LossConfig) -> Tensor:
        """Weighted sums over layers, (3,): class, mask and dice. Training minimises their sum."""
        return torch.stack(
            (
                config.class_weight * self.class_loss.sum(),
                config.mask_weight * self.mask_loss.sum(),
                config.dice_weight * self.dice_loss.sum(),
            )
        )


def criterion(
    predictions: Sequence[Prediction],
    labels: Tensor,
    config: LossConfig,
    draw: Draw,
    ignored: Tensor | None = None,
    part: BatchPart | None = None,
    weights: Tensor | None = None,
) -> Losses:
    """Matches queries with segments and returns the losses of all layers.

    Args:
        predictions: L layers, the last one last.
        labels: (B, H, W) uint8 label maps on the predictions' device; each class in a map is one segment,
            ignored pixels are in no segment.
        config: Weights and numbers of points.
        draw: The random numbers: a function of seed and step in training, fixed in tests.
        ignored: (B, H, W) bool, pixels whose label is unknown; pixels without a label are in no segment
            otherwise. Points there are neither chosen as uncertain nor counted, and in an image with any,
            unmatched queries have no class loss, since what they predict may be there. An addition to the
            published method.
        part: Part of a batch that this is; the losses are then its share of the batch's losses.
        weights: (C,) float32, of the classes in the cross-entropy; None weighs all alike. The divisor stays
            the same. An addition to the published method.

    Returns:
        The losses, differentiable.

    Raises:
        CloudsError: The predictions hold NaN or infinity.
    """
    if part is not None:
        draw = part.drawing(draw)
    shape = (len(predictions), len(labels), config.points, 2)
    matches = match(predictions, labels, draw("matching", shape), config, ignored)
    if part is not None:
        matches = replace(matches, segments=part.whole.segments)
    packed = np.stack((matches.image, matches.query, matches.label))
    image, query, label = torch.from_numpy(packed).to(labels.device, non_blocking=True)
    class_loss = _class_loss(predictions, matches, config, part, ignored, weights)
    if matches.image.size == 0:
        nothing = torch.stack([p.mask_logits.float().sum() * 0 for p in predictions])
        return Losses(class_loss, nothing, nothing)
    masks = _matched_masks(predictions, image, query)
    passed_over = None if ignored is None else partial(touching, ignored, image)
    sizes = config.points, config.oversample, config.uncertain
    points = uncertain_points(masks.detach(), *sizes, draw, passed_over)
    logits = sample_maps(masks, points).squeeze(1)
    target = segment_shares(labels, image, label, points)
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    if passed_over is None:
        return Losses(
            class_loss,
            _per_layer(entropy.mean(1), matches),
            _per_layer(_dice(logits.sigmoid(), target), matches),
        )
    known = (~passed_over(points)).float()
    return Losses(
        class_loss,
        _per_layer((entropy * known).sum(1) / known.sum(1).clamp(min=1), matches),
        _per_layer(_dice(logits.sigmoid() * known, target * known), matches),
    )


def _class_loss(
    predictions: Sequence[Prediction],
    matches: Matches,
    config: LossConfig,
    part: BatchPart | None,
    ignored: Tensor | None,
    weights: Tensor | None,
) -> Tensor:
    """Cross-entropy with a weighted mean per layer, as `F.cross_entropy(weight=...)` takes it: (L,).

    Unmatched queries of an image with `ignored` pixels add nothing; the divisor stays the same.
    """
    logits = torch.stack([p.class_logits.float() for p in predictions])
    layers, images, queries, columns = logits.shape
    target = np.full((layers, images, queries), columns - 1, np.int64)
    layer = np.repeat(np.arange(layers), matches.image.size // layers)
    target[layer, matches.image, matches.query] = matches.label
    wanted = torch.from_numpy(target).to(logits.device, non_blocking=True)
    weight = torch.ones(columns, device=logits.device)
    weight[-1] = config.void_weight
    own = weight if weights is None else torch.cat((weights, weight[-1:]))
    loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), weight=own, reduction="none")
    if ignored is not None:
        silent = (wanted == columns - 1) & ignored.flatten(1).any(1).view(1, -1, 1)
        loss = loss.masked_fill(silent.flatten(), 0)
    if part is not None:
        return loss.view(layers, -1).sum(1) / part.class_weight(queries, config.void_weight)
    return loss.view(layers, -1).sum(1) / weight[wanted].view(layers, -1).sum(1)


def _matched_masks(predictions: Sequence[Prediction], image: Tensor, query: Tensor) -> Tensor:
    """Predicted mask of each matched pair: (L * M, 1, h, w) float32."""
    queries = predictions[0].mask_logits.shape[1]
    rows = (image * queries + query).view(len(predictions), -1)
    picked = [p.mask_logits.flatten(0, 1).index_select(0, r) for p, r in zip(predictions, rows, strict=True)]
    return torch.cat(picked).float().unsqueeze(1)


def _dice(inside: Tensor, target: Tensor) -> Tensor:
    """1 - dice of each pair, (N,), of (N, P) in 0..1, with 1 added to numerator and denominator."""
    overlap = 2 * (inside * target).sum(1)
    return 1 - (overlap + 1) / (inside.sum(1) + target.sum(1) + 1)


def _per_layer(loss: Tensor, matches: Matches) -> Tensor:
    return loss.view(matches.layers, -1).sum(1) / max(matches.segments, 1)
