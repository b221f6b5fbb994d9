"""Windows around masks: the part of an image that the mask decoder sees in most training steps.

Most things in a street cover a hundredth of it or less, and the decoder's cost grows with the area it sees.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clouds_deploy.models.sam.lite_encoder import STRIDE
from clouds_deploy.training.sam.forward import encode
from clouds_deploy.training.sam.prompts import spans


def in_windows(
    sam: Any, batch: dict[str, Tensor], side: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeds images and cuts a window around each of their masks.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        batch: What `SamScenes` gives, batched.
        side: Side of the windows in pixels.
        generator: Source of their places.

    Returns:
        embeddings (B, C, h, w) of the images; and for every mask of theirs, P in all, seen (P, C, side/4,
        side/4), the embedding in its window; masks (P, side, side) bool; offsets (P, 2), x and y in pixels of
        the window in the model's square.
    """
    embeddings = encode(sam, batch["image"])
    owner, masks = _owners(batch["masks"]), batch["masks"].flatten(0, 1)
    corners = place_windows(masks, side, generator)
    inside = cut(masks[:, None], torch.arange(len(masks), device=masks.device), corners, side)[:, 0]
    seen = cut(embeddings, owner, corners // STRIDE, side // STRIDE)
    return embeddings, seen, inside, batch["offset"][owner] + corners.flip(1)


def in_squares(sam: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeds images letterboxed in a square, as at inference.

    Returns:
        As `in_windows`; seen and masks show the squares, offsets are 0.
    """
    height, width = batch["image"].shape[-2:]
    below = (0, 0, 0, width - height)
    size = torch.tensor([[height, width]], device=batch["image"].device)
    embeddings = encode(sam, F.pad(batch["image"], below), size)
    owner = _owners(batch["masks"])
    offsets = torch.zeros_like(batch["offset"])[owner]
    masks = F.pad(batch["masks"].flatten(0, 1), below)
    return embeddings[..., : height // STRIDE, :], embeddings[owner], masks, offsets


def _owners(masks: Tensor) -> Tensor:
    """Number of the image of every mask, (P,), of (B, M, H, W)."""
    return torch.arange(len(masks), device=masks.device).repeat_interleave(masks.shape[1])


def place_windows(masks: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Window for every mask: around all of the mask if it fits, else around a part of it.

    Args:
        masks: (P, H, W) bool, each with at least one pixel; H and W multiples of the encoder's stride.
        side: Side of the windows in pixels, a multiple of the stride.
        generator: Source of random places among those that fit, on the masks' device.

    Returns:
        (P, 2) int64, top row and left column of each in pixels, multiples of the stride.
    """
    count, device = len(masks), masks.device
    row = torch.multinomial(masks.sum(2).float(), 1, generator=generator)[:, 0]
    line = masks[torch.arange(count, device=device), row]
    pixel = torch.stack((row, torch.multinomial(line.float(), 1, generator=generator)[:, 0]), 1)
    first, last = spans(masks)
    fits = last - first <= side - 2 * STRIDE
    low = torch.where(fits, last, pixel) - side + STRIDE
    high = torch.where(fits, first, pixel)
    share = torch.stack([torch.rand(count, generator=generator, device=device) for _ in range(2)], 1)
    start = (low + share * (high - low + 1)).floor().long().clamp(min=0)
    most = (torch.tensor(masks.shape[1:], device=device) - side).clamp(min=0)
    return torch.minimum(start, most) // STRIDE * STRIDE


def cut(maps: Tensor, owner: Tensor, corners: Tensor, side: int) -> Tensor:
    """Cuts windows out of maps.

    Args:
        maps: (B, C, h, w).
        owner: (P,) int64, the map of each window.
        corners: (P, 2) int64, top row and left column.
        side: Rows and columns of a window; less where the map has less.

    Returns:
        (P, C, min(side, h), min(side, w)).
    """
    _, channels, height, width = maps.shape
    rows = corners[:, :1] + torch.arange(min(side, height), device=maps.device)
    columns = corners[:, 1:] + torch.arange(min(side, width), device=maps.device)
    flat = (owner[:, None, None] * height + rows[:, :, None]) * width + columns[:, None]
    taken = maps.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, flat.flatten())
    return taken.view(*flat.shape, channels).permute(0, 3, 1, 2)
