"""Simulated prompts: points, boxes, and corrections (SAM, appendix A, "Training algorithm")."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from clouds_deploy.training.sam.forward import chosen

KINDS = ("point", "points", "box", "box and points")
_CHANCES = (0.2, 0.55, 0.1, 0.15)
CLEAR = 3
"""Number of points, counting a box's corners, from which on a prompt is not ambiguous."""


def interior_points(masks: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Random pixels of each mask, with replacement.

    Args:
        masks: (P, H, W) bool, each with at least one pixel.
        count: Points per mask.
        generator: Source of random numbers, on the masks' device.

    Returns:
        (P, count, 2) float32, x and y in pixels, without SAM's shift of a half.
    """
    width = masks.shape[2]
    flat = torch.multinomial(masks.flatten(1).float(), count, replacement=True, generator=generator)
    return torch.stack((flat % width, flat // width), -1).float()


def middles(masks: Tensor) -> Tensor:
    """Pixel of each mask that is farthest from its boundary; the image's edge counts as one.

    Args:
        masks: (P, H, W) bool, each with at least one pixel.

    Returns:
        (P, 1, 2) float32, x and y in pixels, without SAM's shift of a half.
    """
    places = []
    for mask in masks.cpu().numpy():
        (box,) = ndimage.find_objects(mask.astype(np.uint8))
        depth = ndimage.distance_transform_edt(np.pad(mask[box], 1))[1:-1, 1:-1]
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        places.append((box[1].start + column, box[0].start + row))
    return torch.tensor(places, dtype=torch.float32, device=masks.device)[:, None]


def spans(masks: Tensor) -> tuple[Tensor, Tensor]:
    """First and last rows and columns of masks, (P, H, W) bool with at least one pixel each.

    Returns:
        First row and column, and one past the last, (P, 2) int64 both.
    """
    size = torch.tensor(masks.shape[1:], device=masks.device)
    rows, columns = masks.any(2).float(), masks.any(1).float()
    first = torch.stack((rows.argmax(1), columns.argmax(1)), 1)
    return first, size - torch.stack((rows.flip(1).argmax(1), columns.flip(1).argmax(1)), 1)


def boxes(masks: Tensor, generator: torch.Generator) -> Tensor:
    """Box of each mask, its corners moved by noise of a tenth of its sides, 20 pixels at most.

    Returns:
        (P, 2, 2) float32, top left and bottom right, x and y in pixels.
    """
    height, width = masks.shape[1:]
    first, last = (end.flip(1) for end in spans(masks))
    corners = torch.cat((first, last), 1).float()
    sides = (last - first).float().repeat(1, 2)
    noise = torch.randn(corners.shape, generator=generator, device=masks.device) * sides * 0.1
    limit = torch.tensor([width, height] * 2, device=masks.device, dtype=torch.float32)
    return (corners + noise.clamp(-20, 20)).clamp(min=torch.zeros_like(limit), max=limit).view(-1, 2, 2)


def first_prompts(
    masks: Tensor, draw: np.random.Generator, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """First prompt of every mask; all of a batch are of one kind.

    Args:
        masks: (P, H, W) bool, each with at least one pixel.
        draw: Source of the kind of prompt and the number of points.
        generator: Source of the places.

    Returns:
        points (P, N, 2) float32 and labels (P, N) float32: 1 foreground, 2 and 3 a box's corners, and -1
        the padding point that SAM adds where there is no box.
    """
    kind = KINDS[int(draw.choice(len(KINDS), p=_CHANCES))]
    count = {"point": 1, "points": int(draw.integers(2, 7)), "box": 0}.get(kind, int(draw.integers(1, 6)))
    parts, labels = [], []
    if count:
        parts.append(interior_points(masks, count, generator))
        labels += [1.0] * count
    if "box" in kind:
        parts.append(boxes(masks, generator))
        labels += [2.0, 3.0]
    else:
        parts.append(torch.zeros(len(masks), 1, 2, device=masks.device))
        labels.append(-1.0)
    return torch.cat(parts, 1), torch.tensor([labels], device=masks.device).repeat(len(masks), 1)


def correction(
    points: Tensor, labels: Tensor, truth: Tensor, guess: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Adds a point in a mask's error: foreground where pixels are missing, background where some are wrong.

    Args:
        points: (P, N, 2) float32.
        labels: (P, N) float32.
        truth: (P, H, W) bool.
        guess: (P, H, W) bool.
        generator: Source of a random place in the error; None takes its middle, as SAM's evaluation does. A
            mask without error gets a point in itself.

    Returns:
        points (P, N + 1, 2) and labels (P, N + 1).
    """
    wrong = truth ^ guess
    wrong = torch.where(wrong.any((1, 2))[:, None, None], wrong, truth)
    place = middles(wrong) if generator is None else interior_points(wrong, 1, generator)
    x, y = place[:, 0, 0].long(), place[:, 0, 1].long()
    inside = truth[torch.arange(len(truth), device=truth.device), y, x].float()
    return torch.cat((place, points), 1), torch.cat((inside[:, None], labels), 1)


@torch.no_grad()
def corrected(
    decode: Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]],
    points: Tensor,
    labels: Tensor,
    truth: Tensor,
    rounds: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Corrects the masks of prompts as a user does: by a point in the error, round after round.

    The first mask to correct is the best rated of three, the later ones the single mask, which SAM returns
    for several points.

    Args:
        decode: Maps points, labels and the previous mask, (P, 1, L, L) logits or None, to mask logits
            (P, 4, L, L) and predicted IoU (P, 4).
        points: (P, N, 2) float32.
        labels: (P, N) float32.
        truth: (P, H, W) bool, each with at least one pixel.
        rounds: Number of points to add.
        generator: Source of random numbers: with a probability of one half a point lies anywhere in the
            error, as in SAM's training, else in its middle.

    Returns:
        points (P, N + rounds, 2), labels (P, N + rounds), and the mask that the last point corrects,
        (P, 1, L, L) logits.
    """
    mask = None
    for number in range(rounds):
        logits, ratings = decode(points, labels, mask)
        mask = chosen(logits, ratings, single=number > 0)
        guess = F.interpolate(mask, truth.shape[-2:], mode="bilinear")[:, 0] > 0
        anywhere = bool(torch.rand((), generator=generator, device=truth.device) < 0.5)
        points, labels = correction(points, labels, truth, guess, generator if anywhere else None)
    assert mask is not None, "at least one round"
    return points, labels, mask
