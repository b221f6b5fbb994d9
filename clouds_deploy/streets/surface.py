"""Texture of surfaces: a random value for every place in space, without memory and without end."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

_SIDE = 256
_CELL = 3.0
"""Pixels that the finest visible cell is wide."""
_BLOTCH = 1.6
"""Metres; cell of the coarse pattern."""


class Texture:
    """A pattern that lies on surfaces and looks alike from near and far.

    It is the sum of grids of random values in metres, of which those are seen whose cells are three to six
    pixels wide; a grid fades as the camera gets nearer or farther.

    Args:
        generator: Chooses the pattern.
    """

    def __init__(self, generator: np.random.Generator) -> None:
        self._grid = generator.uniform(-1.0, 1.0, (_SIDE, _SIDE)).astype(np.float32)

    def __call__(self, places: Floats, axes: npt.NDArray[np.intp], size: Floats) -> Floats:
        """Returns the pattern's values, (...) float32 in about -1..1.

        Args:
            places: (..., 3) metres on the thing's own axes: x, y up, z.
            axes: (...) 0..2, the axis that each surface faces most.
            size: (...) metres that a pixel covers there.
        """
        x, y, z = places[..., 0], places[..., 1], places[..., 2]
        across = np.where(axes == 0, z, x)
        along = np.where(axes == 1, z, y)
        level: Floats = np.log2(_CELL * np.maximum(size, 1e-4)).astype(np.float32)
        step = np.floor(level)
        part = level - step
        near, far = (
            self._values(across * scale + shift, along * scale + shift)
            for scale, shift in ((np.exp2(-step), 37 * step), (np.exp2(-step - 1), 37 * step + 37))
        )
        coarse = self._values(across / _BLOTCH, along / _BLOTCH)
        coarse *= np.minimum(1.0, 0.4 * _BLOTCH / size)
        return np.asarray(0.65 * (near + (far - near) * part) + 0.6 * coarse, np.float32)

    def _values(self, across: npt.NDArray[Any], along: npt.NDArray[Any]) -> Floats:
        left, top = np.floor(across), np.floor(along)
        u, v = across - left, along - top
        columns, rows = left.astype(np.int64) & (_SIDE - 1), top.astype(np.int64) & (_SIDE - 1)
        right, low = (columns + 1) & (_SIDE - 1), ((rows + 1) & (_SIDE - 1)) * _SIDE
        rows *= _SIDE
        grid = self._grid.ravel()
        upper = grid[rows + columns]
        upper += (grid[rows + right] - upper) * u
        lower = grid[low + columns]
        lower += (grid[low + right] - lower) * u
        return np.asarray(upper + (lower - upper) * v, np.float32)
