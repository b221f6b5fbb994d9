"""Looking maps up at points: losses see a few thousand places of a mask instead of all of it (PointRend).

Ground truth stays a label map. The binary mask of a class, sampled bilinearly, is the share of the four
pixels around a point that carry that class; so masks are never made, however many segments there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Draw = Callable[[str, tuple[int, ...]], Tensor]
"""Gives float32 numbers in 0..1 of a shape for a purpose: `matching`, `candidates` or `anywhere`."""


def uniform_draw(generator: torch.Generator) -> Draw:
    """Draw uniformly from a generator, on its device; the purposes are drawn in a fixed order."""

    def draw(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    return draw


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Look maps up bilinearly; outside reads zero.

    Args:
        maps: (N, C, h, w) float32.
        points: (N, P, 2) x then y, 0..1 over the whole map (align_corners=False).

    Returns:
        (N, C, P).
    """
    grid = (2 * points - 1).unsqueeze(1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(2)


def _corners(labels: Tensor, image: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Give labels and bilinear weights of the four pixels around each point.

    Args:
        labels: (B, H, W) uint8.
        image: (N,) int64, which label map each row of points is of.
        points: (N, P, 2).

    Returns:
        (N, P, 4) uint8 and (N, P, 4) float32; a pixel outside has weight zero.
    """
    height, width = labels.shape[1:]
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    share_x, share_y = x - left, y - top
    columns = torch.stack((left, left + 1), dim=-1).long()
    rows = torch.stack((top, top + 1), dim=-1).long()
    weight_x = torch.stack((1 - share_x, share_x), dim=-1) * ((columns >= 0) & (columns < width))
    weight_y = torch.stack((1 - share_y, share_y), dim=-1) * ((rows >= 0) & (rows < height))
    inside = rows.clamp(0, height - 1).unsqueeze(-1) * width + columns.clamp(0, width - 1).unsqueeze(-2)
    index = inside.flatten(2) + (image * (height * width)).view(-1, 1, 1)
    return labels.flatten()[index], (weight_y.unsqueeze(-1) * weight_x.unsqueeze(-2)).flatten(2)


def class_shares(labels: Tensor, points: Tensor, classes: int) -> Tensor:
    """Sample the binary masks of all classes at an image's points.

    Args:
        labels: (B, H, W) uint8 label maps.
        points: (B, P, 2) x then y, 0..1.
        classes: Number of classes; labels from there on (the ignored) are in no mask.

    Returns:
        (B, P, classes) float32, 0..1.
    """
    image = torch.arange(labels.shape[0], device=labels.device)
    corner, weight = _corners(labels, image, points)
    column = corner.clamp(max=classes).long()
    shares = torch.zeros(*points.shape[:2], classes + 1, device=points.device)
    for k in range(4):  # one corner at a time, so that no two writes meet and the sum is reproducible
        shares.scatter_add_(2, column[..., k : k + 1], weight[..., k : k + 1])
    return shares[..., :classes]


def segment_shares(labels: Tensor, image: Tensor, label: Tensor, points: Tensor) -> Tensor:
    """Sample one class's binary mask per row of points.

    Args:
        labels: (B, H, W) uint8 label maps.
        image: (N,) int64, whose map a row samples.
        label: (N,) int64, whose mask a row samples.
        points: (N, P, 2) x then y, 0..1.

    Returns:
        (N, P) float32, 0..1.
    """
    corner, weight = _corners(labels, image, points)
    return (weight * (corner == label.view(-1, 1, 1))).sum(-1)


def present_classes(labels: Tensor, classes: int) -> Tensor:
    """Say which classes each label map holds.

    Returns:
        (B, classes) bool.
    """
    seen = torch.zeros(labels.shape[0], 256, dtype=torch.bool, device=labels.device)
    return seen.scatter_(1, labels.flatten(1).long(), True)[:, :classes]


@torch.no_grad()
def uncertain_points(masks: Tensor, points: int, oversample: float, uncertain: float, draw: Draw) -> Tensor:
    """Choose where to look: mostly where the prediction is undecided (PointRend, section 3.1).

    Args:
        masks: (N, 1, h, w) mask logits.
        points: How many points to choose per mask.
        oversample: How many times as many candidates are drawn.
        uncertain: Share of the chosen points that are the candidates of smallest |logit|; the rest is
            drawn anywhere.
        draw: The random numbers.

    Returns:
        (N, points, 2) x then y, 0..1.
    """
    candidates = draw("candidates", (len(masks), int(points * oversample), 2))
    sure = sample_maps(masks, candidates).squeeze(1).abs()
    count = int(uncertain * points)
    best = sure.topk(count, dim=1, largest=False, sorted=False).indices
    chosen = candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat((chosen, draw("anywhere", (len(masks), points - count, 2))), dim=1)
