"""Refinement the way the authors' joint step goes about it, written anew on `segment_anything.SamPredictor`.

One image at a time, every component as a mask of the image's size, all three proposals of every prompt at the
image's size. Only the random numbers are ours, so that both sides ask for the same points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import ndimage

from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.labels import IGNORE

if TYPE_CHECKING:
    from segment_anything import SamPredictor


def separate(labels: np.ndarray, above: float) -> list[tuple[int, np.ndarray]]:
    """Split every class into its large components, each a (H, W) mask."""
    parts = []
    for label in np.unique(labels[labels != IGNORE]):
        mask = labels == label
        numbered, count = ndimage.label(mask)
        areas = ndimage.sum(mask, numbered, range(count + 1))
        parts += [(int(label), numbered == i) for i in range(1, count + 1) if areas[i] > above]
    return parts


def draw_points(mask: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Draw pixels of a mask, (count, 2) x and y."""
    places = np.column_stack(np.where(mask))[:, ::-1]
    return places[random.choice(len(places), count, replace=False)]


@torch.no_grad()
def refine(
    predictor: SamPredictor,
    image: np.ndarray,
    labels: np.ndarray,
    config: RefineConfig,
    random: np.random.Generator,
) -> np.ndarray:
    """Refine one image's labels: (H, W) uint8, 255 where there is no class."""
    height, width = config.reference_size
    parts = separate(labels, config.min_area * labels.size / (height * width))
    if not parts:
        return labels
    points = np.stack([draw_points(mask, config.points, random) for _, mask in parts])
    size = labels.shape
    resized = predictor.transform.apply_image(image)
    predictor.set_torch_image(torch.as_tensor(resized).permute(2, 0, 1)[None].contiguous(), size)
    coordinates = torch.as_tensor(predictor.transform.apply_coords(points, size), dtype=torch.float32)
    masks, ratings, _ = predictor.predict_torch(
        coordinates, torch.ones(coordinates.shape[:2]), multimask_output=True
    )
    best = masks[torch.arange(len(masks)), ratings.max(dim=1).indices]
    best[:, best.sum(dim=0) > 1] = False
    out = np.full(size, IGNORE, np.uint8)
    for label in sorted({label for label, _ in parts}):
        chosen = [i for i, (own, _) in enumerate(parts) if own == label]
        out[torch.max(best[chosen], dim=0).values.numpy()] = label
    return out
