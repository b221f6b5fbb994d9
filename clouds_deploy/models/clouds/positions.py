"""Position encodings of feature maps."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Sines and cosines of the normalised position of every cell of a grid.

    DETR's encoding with `normalize=True`, as Mask2Former uses it (docs/explanation/method.md 2.2):
    coordinates 1..n are divided by n (+1e-6) and scaled to 2 pi; temperature 10000; y first, then x.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        channels: Channels of the encoding, a multiple of 4.
        device: Of the result.

    Returns:
        (height * width, channels) float32.
    """
    half = channels // 2
    steps = torch.arange(half, dtype=torch.float32, device=device)
    wavelength = 10000.0 ** (2 * torch.div(steps, 2, rounding_mode="floor") / half)

    def encode(count: int) -> Tensor:
        place = torch.arange(1, count + 1, dtype=torch.float32, device=device) / (count + 1e-6) * 2 * math.pi
        angle = place[:, None] / wavelength
        return torch.stack((angle[:, 0::2].sin(), angle[:, 1::2].cos()), dim=2).flatten(1)

    rows = encode(height)[:, None, :].expand(height, width, half)
    columns = encode(width)[None, :, :].expand(height, width, half)
    return torch.cat((rows, columns), dim=2).reshape(height * width, channels)


def cell_centers(height: int, width: int, device: torch.device) -> Tensor:
    """Centres of a grid's cells.

    Returns:
        (height * width, 2) float32, x then y, each in 0..1.
    """
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    grid = torch.stack((x[None, :].expand(height, width), y[:, None].expand(height, width)), dim=2)
    return grid.reshape(height * width, 2)
