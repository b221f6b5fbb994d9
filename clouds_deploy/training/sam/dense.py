"""Auxiliary losses for SAM's image encoder: the class at every place, and how far its region extends.

Masks alone train a small encoder slowly: an image has few, and each is the answer to one prompt. In synthetic
scenes the class of every pixel and the extent of every region are known, so during training a linear layer on
the image embedding predicts both. It is removed afterwards: the model keeps SAM's architecture.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from clouds_deploy.labels import IGNORE, NUM_CLASSES
from clouds_deploy.training.sam.losses import focal_dice

STRIDE = 4
"""Pixels between the places that are predicted."""
PLACES = 32
"""Places in an image whose region `region_loss` predicts."""


class DenseHead(nn.Module):
    """Predicts classes and extents from an image embedding.

    Args:
        width: Channels of the embedding.
        patch: Pixels between its places; a multiple of `STRIDE`.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.fold = patch // STRIDE
        self.project = nn.Conv2d(width, (NUM_CLASSES + 4) * self.fold**2, 1)

    def forward(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (B, 19, S/4, S/4) and extents (B, 4, S/4, S/4) in pixels, positive."""
        out = F.pixel_shuffle(self.project(embedding), self.fold)
        return out[:, :NUM_CLASSES], STRIDE * out[:, NUM_CLASSES:].float().clamp(max=8).exp()


def dense_targets(
    labels: npt.NDArray[np.uint8], regions: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Targets of `DenseHead`.

    Args:
        labels: (H, W) uint8 train ids, 255 where no class is to be learned.
        regions: (H, W) int32, 0 where there is none; 4 divides H and W.

    Returns:
        classes (H/4, W/4) uint8, and extents (4, H/4, W/4) float32: pixels from the place to the left, upper,
        right and lower end of its region, all 0 where there is no region.
    """
    middle = slice(STRIDE // 2, None, STRIDE)
    places = regions[middle, middle]
    extents = np.zeros((4, *places.shape), np.float32)
    ends = np.zeros((int(regions.max()) + 1, 4), np.float32)
    for number, box in enumerate(ndimage.find_objects(regions), 1):
        if box is not None:
            ends[number] = box[1].start, box[0].start, box[1].stop, box[0].stop
    rows = np.arange(places.shape[0], dtype=np.float32)[:, None] * STRIDE + STRIDE // 2 + 0.5
    columns = np.arange(places.shape[1], dtype=np.float32)[None] * STRIDE + STRIDE // 2 + 0.5
    left, top, right, bottom = np.moveaxis(ends[places], -1, 0)
    extents[:] = columns - left, rows - top, right - columns, bottom - rows
    extents[:, places == 0] = 0
    return labels[middle, middle], extents


def dense_loss(head: nn.Module, embedding: Tensor, classes: Tensor, extents: Tensor) -> Tensor:
    """Loss of the head's predictions.

    Args:
        head: A `DenseHead`.
        embedding: (B, C, h, w).
        classes: (B, S/4, S/4) uint8.
        extents: (B, 4, S/4, S/4) pixels.

    Returns:
        Cross-entropy of the classes plus 1 - IoU of the boxes that the extents span, each a mean over the
        places that have one.
    """
    logits, found = head(embedding)
    known = classes != IGNORE
    entropy = F.cross_entropy(logits.float(), classes.long(), ignore_index=IGNORE, reduction="sum")
    inner, outer = torch.minimum(found, extents), found
    both = (inner[:, 0] + inner[:, 2]) * (inner[:, 1] + inner[:, 3])
    ours = (outer[:, 0] + outer[:, 2]) * (outer[:, 1] + outer[:, 3])
    theirs = (extents[:, 0] + extents[:, 2]) * (extents[:, 1] + extents[:, 3])
    there = theirs > 0
    missed = (1 - both / (ours + theirs - both)) * there
    loss: Tensor = entropy / known.sum().clamp(min=1) + missed.sum() / there.sum().clamp(min=1)
    return loss


def region_loss(sam: Any, embedding: Tensor, regions: Tensor, generator: torch.Generator) -> Tensor:
    """Loss that trains SAM's last layers at many places of every image at once.

    A mask of SAM is the product of a token, put through a small network, with the upscaled embedding. Here
    the embedding at a place takes the role of the token, and the target is the region at that place. Only the
    product is computed for each place, which is cheap, and the embedding learns to separate regions, as the
    masks need it. `PLACES` random places of each image are compared at every second pixel of every second
    row.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        embedding: (B, C, h, w).
        regions: (B, 4h, 4w) integer, 0 where there is no region.
        generator: Source of the random places, on the regions' device.

    Returns:
        Focal plus dice loss, a mean over places that have a region.
    """
    decoder = sam.mask_decoder
    fine = decoder.output_upscaling(embedding)[..., 1::2, 1::2].flatten(2)
    places = torch.randint(
        0, regions[0].numel(), (len(regions), PLACES), generator=generator, device=regions.device
    )
    wanted = regions.flatten(1).gather(1, places)
    target = (regions[:, 1::2, 1::2].flatten(1)[:, None] == wanted[..., None]).float()
    width = embedding.shape[-1]
    rows, columns = places // (4 * width) // 4, places % (4 * width) // 4
    there = (
        embedding.flatten(2)
        .transpose(1, 2)
        .gather(1, (rows * width + columns)[..., None].expand(-1, -1, embedding.shape[1]))
    )
    token = decoder.transformer.norm_final_attn(there)
    logits = decoder.output_hypernetworks_mlps[0](token) @ fine
    focal, dice = focal_dice(logits.float(), target)
    known = wanted > 0
    loss: Tensor = ((focal + dice) * known).sum() / known.sum().clamp(min=1)
    return loss
