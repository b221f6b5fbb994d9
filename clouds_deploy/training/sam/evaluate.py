"""How well a promptable segmenter finds things from one point, and from five."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clouds_deploy.data.streets.scene import Scene
from clouds_deploy.training.sam.forward import decode, encode
from clouds_deploy.training.sam.prompts import interior_points

SMALLEST = 0.002
"""Instances of a smaller share of the image are not asked for."""


def things(scene: Scene, smallest: float = SMALLEST) -> list[Any]:
    """Give the masks, (H, W) bool each, of a scene's instances that are not too small."""
    numbers, areas = np.unique(scene.instances, return_counts=True)
    wanted = (numbers > 0) & (areas >= smallest * scene.instances.size)
    return [scene.instances == number for number in numbers[wanted]]


@torch.inference_mode()
def evaluate_sam(sam: Any, scenes: Iterable[Scene], points: tuple[int, ...] = (1, 5)) -> dict[str, float]:
    """Prompt for every instance with random interior points and compare the mask SAM rates best.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        scenes: Scenes with instances.
        points: Numbers of points to try.

    Returns:
        Mean IoU over instances in percent as `iou_1`, `iou_5`, ..., and how many `instances` there were.
    """
    side = sam.image_encoder.img_size
    sums, count = dict.fromkeys(points, 0.0), 0
    device = sam.pixel_mean.device
    for number, scene in enumerate(scenes):
        masks = things(scene)
        if not masks:
            continue
        truth = torch.from_numpy(np.stack(masks))
        height, width = scene.labels.shape
        scale = side / max(height, width)
        rows, columns = int(height * scale + 0.5), int(width * scale + 0.5)
        image = torch.zeros(1, 3, side, side, dtype=torch.uint8)
        small = Image.fromarray(scene.image).resize((columns, rows), Image.Resampling.BILINEAR)
        image[0, :, :rows, :columns] = torch.from_numpy(np.array(small)).permute(2, 0, 1)
        embedding = encode(sam, image.to(device), torch.tensor([[rows, columns]], device=device))
        for n in points:
            generator = torch.Generator().manual_seed(1000 * number + n)
            place = (interior_points(truth, n, generator) + 0.5) * scale - 0.5
            place = F.pad(place, (0, 0, 0, 1)).to(device)
            kind = torch.tensor([[1.0] * n + [-1.0]], device=device).repeat(len(truth), 1)
            logits, ratings = decode(sam, embedding.expand(len(truth), -1, -1, -1), place, kind, None)
            best = 1 + ratings[:, 1:].argmax(1)
            chosen = logits[torch.arange(len(truth), device=device), best][:, None]
            chosen = F.interpolate(chosen, (side, side), mode="bilinear")[..., :rows, :columns]
            found = F.interpolate(chosen, (height, width), mode="bilinear")[:, 0].cpu() > 0
            iou = (found & truth).sum((1, 2)) / (found | truth).sum((1, 2))
            sums[n] += float(iou.sum())
        count += len(truth)
    return {**{f"iou_{n}": 100 * sums[n] / max(count, 1) for n in points}, "instances": count}
