"""Evaluation of a promptable segmenter: from one point, from five, and from clicks that correct it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.data.images import fit_size, resize
from clouds_deploy.streets.scene import Scene
from clouds_deploy.training.sam.forward import chosen, decode, encode
from clouds_deploy.training.sam.prompts import correction, interior_points, middles

SMALLEST = 0.002
"""Smallest instance that is evaluated, as a share of the image."""

Ask = Callable[[Tensor, Tensor, Tensor | None, bool], tuple[Tensor, Tensor]]


def things(scene: Scene, smallest: float = SMALLEST) -> list[Any]:
    """Masks, (H, W) bool each, of a scene's instances that are not too small."""
    numbers, areas = np.unique(scene.instances, return_counts=True)
    wanted = (numbers > 0) & (areas >= smallest * scene.instances.size)
    return [scene.instances == number for number in numbers[wanted]]


@torch.inference_mode()
def asked(sam: Any, image: np.ndarray) -> Ask:
    """Embeds an image, as `SamPredictor.set_image` does, and returns a function that answers prompts for it.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        image: (H, W, 3) uint8 RGB.

    Returns:
        A function of points (P, N, 2) in pixels of the image, their labels (P, N), 1 foreground and 0
        background, the previous mask, (P, 1, L, L) logits or None, and whether to take the single mask
        instead of the best rated of three. It returns masks (P, H, W) bool on the CPU, and their logits
        (P, 1, L, L).
    """
    side, device = sam.image_encoder.img_size, sam.pixel_mean.device
    height, width = image.shape[:2]
    scale = side / max(height, width)
    rows, columns = fit_size(height, width, long=side)
    square = torch.zeros(1, 3, side, side, dtype=torch.uint8)
    small = resize(image, (rows, columns))
    square[0, :, :rows, :columns] = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    embedding = encode(sam, square.to(device), torch.tensor([[rows, columns]], device=device))

    @torch.inference_mode()
    def ask(points: Tensor, labels: Tensor, before: Tensor | None, single: bool) -> tuple[Tensor, Tensor]:
        place = F.pad((points + 0.5) * scale - 0.5, (0, 0, 0, 1)).to(device)
        kinds = F.pad(labels, (0, 1), value=-1.0).to(device)
        logits, ratings = decode(sam, embedding.expand(len(points), -1, -1, -1), place, kinds, before)
        mask = chosen(logits, ratings, single)
        whole = F.interpolate(mask, (side, side), mode="bilinear")[..., :rows, :columns]
        return F.interpolate(whole, (height, width), mode="bilinear")[:, 0].cpu() > 0, mask

    return ask


def overlap(found: Tensor, truth: Tensor) -> Tensor:
    """IoU, (P,), of masks (P, H, W) bool with others."""
    return (found & truth).sum((1, 2)) / (found | truth).sum((1, 2)).clamp(min=1)


def click(ask: Ask, truth: Tensor, count: int) -> list[Tensor]:
    """Segments things by clicks, as SAM's own evaluation does (SAM, appendix D.1, "Point sampling").

    The first point lies in the middle of the thing, each later one in the middle of the previous mask's
    error; SAM gets that mask too. From the second point on the single mask is taken, as SAM does for
    several points.

    Args:
        ask: See `asked`.
        truth: (P, H, W) bool, each with at least one pixel.
        count: Points.

    Returns:
        Masks (P, H, W) bool after each point.
    """
    points, labels, before = middles(truth), torch.ones(len(truth), 1), None
    steps: list[Tensor] = []
    for number in range(count):
        if number:
            points, labels = correction(points, labels, truth, steps[-1], None)
        found, before = ask(points, labels, before, number > 0)
        steps.append(found)
    return steps


def evaluate_sam(
    sam: Any, scenes: Iterable[Scene], points: tuple[int, ...] = (1, 5), clicks: int = 5
) -> dict[str, float]:
    """Mean IoU of the masks that SAM returns for every instance.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        scenes: Scenes with instances.
        points: Numbers of points to evaluate: random ones in the thing, given at once; of the three masks
            the best rated one counts.
        clicks: Number of correcting points, see `click`; 0 for no such evaluation.

    Returns:
        Mean IoU over instances in percent as `iou_1`, `iou_5`, ..., `clicks_1` and `clicks_5`, and the number
        of `instances`.
    """
    sums: dict[str, float] = {}
    count = 0
    for number, scene in enumerate(scenes):
        masks = things(scene)
        if not masks:
            continue
        truth, ask = torch.from_numpy(np.stack(masks)), asked(sam, scene.image)
        found = {}
        for n in points:
            place = interior_points(truth, n, torch.Generator().manual_seed(1000 * number + n))
            found[f"iou_{n}"] = ask(place, torch.ones(len(truth), n), None, False)[0]
        if clicks:
            steps = click(ask, truth, clicks)
            found["clicks_1"], found[f"clicks_{clicks}"] = steps[0], steps[-1]
        for name, mask in found.items():
            sums[name] = sums.get(name, 0.0) + float(overlap(mask, truth).sum())
        count += len(truth)
    names = [f"iou_{n}" for n in points] + (["clicks_1", f"clicks_{clicks}"] if clicks else [])
    return {**{name: 100 * sums.get(name, 0.0) / max(count, 1) for name in names}, "instances": count}
