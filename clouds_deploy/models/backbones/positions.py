"""Learned position embeddings, resized to another grid.

Resizing is linear and separable, so it is two small products with matrices that depend only on sizes.
In an exported graph they are constants, while the libraries' antialiased cubic resize would be an operator
that TensorRT lacks.
"""

from __future__ import annotations

import torch
from torch import Tensor

_SHARPNESS = -0.5
"""Keys' cubic parameter, as in PyTorch's antialiased `bicubic`."""


def _cubic(distance: float) -> float:
    x = abs(distance)
    if x < 1:
        return ((_SHARPNESS + 2) * x - (_SHARPNESS + 3)) * x * x + 1
    if x < 2:
        return (((x - 5) * x + 8) * x - 4) * _SHARPNESS
    return 0.0


def cubic_weights(old: int, new: int) -> tuple[tuple[float, ...], ...]:
    """Matrix of an antialiased cubic resize along one axis.

    Args:
        old: Number of samples before.
        new: Number of samples afterwards.

    Returns:
        (new, old) rows summing to 1; the same numbers as `torch.nn.functional.interpolate` with
        `mode="bicubic", antialias=True`.
    """
    scale = old / new
    stretch = max(scale, 1.0)
    rows = []
    for index in range(new):
        center = scale * (index + 0.5)
        first = max(int(center - 2 * stretch + 0.5), 0)
        last = min(int(center + 2 * stretch + 0.5), old)
        row = [0.0] * old
        for place in range(first, last):
            row[place] = _cubic((place - center + 0.5) / stretch)
        total = sum(row)
        rows.append(tuple(value / total for value in row))
    return tuple(rows)


def _matrix(old: int, new: int) -> Tensor:
    return torch.tensor(cubic_weights(old, new))


def resample(embedding: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resizes the grid part of a position embedding; tokens before it (class token) stay.

    Args:
        embedding: (1, P + old[0] * old[1], C).
        old: The grid it was trained on: height, width.
        new: The new grid.

    Returns:
        (1, P + new[0] * new[1], C); the argument itself when the grids are the same.
    """
    if old == new:
        return embedding
    prefix = embedding.shape[1] - old[0] * old[1]
    grid = embedding[:, prefix:].reshape(old[0], old[1], -1)
    rows = _matrix(old[0], new[0]).to(grid)
    columns = _matrix(old[1], new[1]).to(grid)
    grid = torch.matmul(rows, grid.flatten(1)).reshape(new[0], old[1], -1)
    grid = torch.matmul(columns, grid)  # broadcast over rows
    grid = grid.reshape(1, new[0] * new[1], -1)
    return torch.cat((embedding[:, :prefix], grid), dim=1) if prefix else grid
