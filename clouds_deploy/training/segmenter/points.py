"""Maps sampled at points: losses compare a few thousand points of a mask instead of all pixels (PointRend).

Ground truth stays a label map. The binary mask of a class, sampled bilinearly, is the weighted share of the
four pixels around a point that have that class, so no mask is ever stored.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.labels import IGNORE

Draw = Callable[[str, tuple[int, ...]], Tensor]
"""Returns float32 numbers in 0..1 of a shape for a purpose: `matching`, `candidates` or `anywhere`."""


def uniform_draw(generator: torch.Generator) -> Draw:
    """Uniform numbers of a generator, on its device; purposes are asked for in a fixed order."""

    def draw(purpose: str, shape: tuple[int, ...]) -> Tensor:
        return torch.rand(shape, generator=generator, device=generator.device)

    return draw


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Samples maps bilinearly; outside a map the value is 0.

    Args:
        maps: (N, C, h, w) float32.
        points: (N, P, 2) x then y, 0..1 over the whole map (align_corners=False).

    Returns:
        (N, C, P).
    """
    grid = (2 * points - 1).unsqueeze(1)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(2)


def _corners(labels: Tensor, image: Tensor, points: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Labels of the four pixels around each point.

    A border of `IGNORE` around the maps stands for everything outside, so no index is out of range.

    Args:
        labels: (B, H, W) uint8.
        image: (N,) int64, label map of each row of points.
        points: (N, P, 2), 0..1.

    Returns:
        Upper left, upper right, lower left, lower right, each (N, P) uint8; and how far the point is from
        left to right and from top to bottom among them, each (N, P) float32, 0..1.
    """
    height, width = labels.shape[1:]
    bordered = F.pad(labels, (1, 1, 1, 1), value=IGNORE).flatten()
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = x.floor(), y.floor()
    index = (top.long() + 1) * (width + 2) + left.long() + 1
    index += (image * ((height + 2) * (width + 2))).unsqueeze(1)
    steps = (0, 1, width + 2, width + 3)
    return [bordered[index + step if step else index] for step in steps], x - left, y - top


def class_shares(labels: Tensor, points: Tensor, classes: int) -> Tensor:
    """Samples the binary masks of all classes at points of each image.

    Args:
        labels: (B, H, W) uint8 label maps.
        points: (B, P, 2) x then y, 0..1.
        classes: Number of classes; labels from there on (the ignored) are in no mask.

    Returns:
        (B, P, classes) float32, 0..1.
    """
    image = torch.arange(labels.shape[0], device=labels.device)
    corners, right, down = _corners(labels, image, points)
    weights = ((1 - right) * (1 - down), right * (1 - down), (1 - right) * down, right * down)
    shares = torch.zeros(*points.shape[:2], classes + 1, device=points.device)
    for corner, weight in zip(corners, weights, strict=True):  # one by one: no two writes meet
        column = corner.clamp(max=classes).long()
        shares.scatter_add_(2, column.unsqueeze(-1), weight.unsqueeze(-1))
    return shares[..., :classes]


def segment_shares(labels: Tensor, image: Tensor, label: Tensor, points: Tensor) -> Tensor:
    """Samples one class's binary mask for each row of points.

    Args:
        labels: (B, H, W) uint8 label maps.
        image: (N,) int64, label map that a row samples.
        label: (N,) int64, class whose mask a row samples.
        points: (N, P, 2) x then y, 0..1.

    Returns:
        (N, P) float32, 0..1.
    """
    corners, right, down = _corners(labels, image, points)
    wanted = label.to(torch.uint8).unsqueeze(1)
    upper_left, upper_right, lower_left, lower_right = ((corner == wanted).float() for corner in corners)
    upper = torch.lerp(upper_left, upper_right, right)
    return torch.lerp(upper, torch.lerp(lower_left, lower_right, right), down)


def touching(mask: Tensor, image: Tensor, points: Tensor) -> Tensor:
    """Whether any of the four pixels around a point, which a bilinear sample mixes, is in a mask.

    Args:
        mask: (B, H, W) bool.
        image: (N,) int64, mask of each row of points.
        points: (N, P, 2) x then y, 0..1.

    Returns:
        (N, P) bool.
    """
    corners, _, _ = _corners(mask.to(torch.uint8), image, points)  # outside reads IGNORE, which is not 1
    one, two, three, four = (corner == 1 for corner in corners)
    return one | two | three | four


def present_classes(labels: Tensor, classes: int) -> Tensor:
    """Classes that each label map contains.

    Returns:
        (B, classes) bool.
    """
    seen = torch.zeros(labels.shape[0], 256, dtype=torch.bool, device=labels.device)
    return seen.scatter_(1, labels.flatten(1).long(), True)[:, :classes]


@torch.no_grad()
def uncertain_points(
    masks: Tensor,
    points: int,
    oversample: float,
    uncertain: float,
    draw: Draw,
    passed_over: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Chooses points, most of them where the prediction is uncertain (PointRend, section 3.1).

    Args:
        masks: (N, 1, h, w) mask logits.
        points: Points to choose for each mask.
        oversample: Candidates, as a multiple of `points`.
        uncertain: Share of the chosen points that are the candidates of smallest |logit|; the rest is
            drawn anywhere.
        draw: The random numbers.
        passed_over: Which of the candidates (N, P, 2) are chosen only when there are no others, (N, P) bool.

    Returns:
        (N, points, 2) x then y, 0..1.
    """
    candidates = draw("candidates", (len(masks), int(points * oversample), 2))
    sure = sample_maps(masks, candidates).squeeze(1).abs()
    if passed_over is not None:
        sure = sure.masked_fill(passed_over(candidates), torch.inf)
    count = int(uncertain * points)
    best = sure.topk(count, dim=1, largest=False, sorted=False).indices
    chosen = candidates.gather(1, best.unsqueeze(-1).expand(-1, -1, 2))
    return torch.cat((chosen, draw("anywhere", (len(masks), points - count, 2))), dim=1)
