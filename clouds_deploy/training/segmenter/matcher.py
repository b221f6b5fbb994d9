"""Hungarian matching of queries and segments (docs/explanation/method.md 3.1; DETR, Mask2Former).

The cost of every query against all classes is computed on the device for every layer, whether a class is
in the image or not: shapes then never depend on data, and one transfer brings all of it to the CPU, where
SciPy solves the assignments. Only for that transfer does a training step wait for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.config.recipe import LossConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.training.segmenter.points import class_shares, present_classes, sample_maps, touching


@dataclass(frozen=True)
class Matches:
    """Matched pairs of all layers: layer by layer, in a layer image by image, then by query.

    Every layer has the same number of pairs per image: its number of classes, or of queries if fewer.

    Attributes:
        layers: L, the number of predictions matched.
        segments: Segments in the batch's ground truth, matched or not; the losses are divided by it.
        image: (L * M,) int64, 0..B-1.
        query: (L * M,) int64, 0..Q-1.
        label: (L * M,) int64, 0..C-1.
    """

    layers: int
    segments: int
    image: npt.NDArray[np.int64]
    query: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]


@torch.no_grad()
def matching_costs(
    predictions: Sequence[Prediction],
    labels: Tensor,
    points: Tensor,
    config: LossConfig,
    ignored: Tensor | None = None,
) -> Tensor:
    """Cost of assigning every query to every class's segment.

    cost = class_weight * -p(class) + mask_weight * BCE + dice_weight * dice, the latter two over points.

    Args:
        predictions: L layers of B images and Q queries.
        labels: (B, H, W) uint8 label maps.
        points: (L, B, P, 2) places, x then y, 0..1; shared by all masks of an image.
        config: The three weights.
        ignored: (B, H, W) bool, pixels whose label is unknown: points there do not count.

    Returns:
        (L, B, Q, C) float32; columns of classes that an image does not hold mean nothing.
    """
    return torch.stack(
        [_layer_costs(p, labels, at, config, ignored) for p, at in zip(predictions, points, strict=True)]
    )


def _layer_costs(
    prediction: Prediction, labels: Tensor, points: Tensor, config: LossConfig, ignored: Tensor | None
) -> Tensor:
    classes = prediction.class_logits.shape[-1] - 1
    probability = prediction.class_logits.float().softmax(-1)[..., :classes]
    logits = sample_maps(prediction.mask_logits.float(), points)  # (B, Q, P)
    target = class_shares(labels, points, classes)  # (B, P, C)
    inside, soft = logits.sigmoid(), F.softplus(logits)
    counted: Tensor | int = points.shape[1]
    if ignored is not None:
        known = (~touching(ignored, torch.arange(len(labels), device=labels.device), points)).float()
        target = target * known.unsqueeze(-1)
        inside, soft = inside * known.unsqueeze(1), soft * known.unsqueeze(1)
        counted = known.sum(1).clamp(min=1).view(-1, 1, 1)
    # BCE(x, t) = softplus(x) - x t, summed over points
    entropy = soft.sum(-1, keepdim=True) - torch.bmm(logits, target)
    overlap = 2 * torch.bmm(inside, target)
    extent = inside.sum(-1, keepdim=True) + target.sum(1, keepdim=True)
    dice = 1 - (overlap + 1) / (extent + 1)
    return (
        config.mask_weight * entropy / counted - config.class_weight * probability + config.dice_weight * dice
    )


def match(
    predictions: Sequence[Prediction],
    labels: Tensor,
    points: Tensor,
    config: LossConfig,
    ignored: Tensor | None = None,
) -> Matches:
    """Assigns a query to every segment of every image, for each layer by itself.

    Args:
        predictions: As in `matching_costs`; so are the other arguments.
        labels: See there.
        points: See there.
        config: See there.
        ignored: See there.

    Returns:
        The pairs of least total cost.

    Raises:
        CloudsError: A cost is NaN or infinite: the training has diverged.
    """
    costs = matching_costs(predictions, labels, points, config, ignored)
    layers, images, queries, classes = costs.shape
    present = present_classes(labels, classes)
    packed = torch.cat((costs.flatten(), present.flatten().to(costs.dtype))).cpu().numpy()
    table = packed[: costs.numel()].reshape(layers, images, queries, classes)
    here = packed[costs.numel() :].reshape(images, classes) > 0
    if not np.isfinite(table).all():
        raise CloudsError(
            "the loss became NaN or infinite",
            "lower train.lr, lengthen train.warmup_steps, or set train.precision=fp32",
        )
    return solve(table, [np.flatnonzero(row) for row in here])


def solve(costs: npt.NDArray[np.float32], wanted: Sequence[npt.NDArray[np.int64]]) -> Matches:
    """Solves the assignment problem of every layer and image.

    Args:
        costs: (L, B, Q, C), finite.
        wanted: For each image the classes it holds, ascending.

    Returns:
        The pairs of least total cost.
    """
    from scipy.optimize import linear_sum_assignment

    image: list[npt.NDArray[np.int64]] = []
    query: list[npt.NDArray[np.int64]] = []
    label: list[npt.NDArray[np.int64]] = []
    for layer in costs:
        for number, (table, classes) in enumerate(zip(layer, wanted, strict=True)):
            rows, columns = linear_sum_assignment(table[:, classes])
            image.append(np.full(len(rows), number, np.int64))
            query.append(rows.astype(np.int64))
            label.append(classes[columns].astype(np.int64))
    return Matches(
        layers=len(costs),
        segments=sum(len(classes) for classes in wanted),
        image=np.concatenate(image),
        query=np.concatenate(query),
        label=np.concatenate(label),
    )
