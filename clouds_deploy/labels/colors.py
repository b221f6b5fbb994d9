"""Default colours of classes: as far apart as people see them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Color = tuple[int, int, int]
_LEVELS = np.linspace(16, 240, 12).round().astype(np.uint8)
_FIRST: Color = (230, 60, 60)


def distinct_colors(count: int, taken: Sequence[Color] = ()) -> list[Color]:
    """Colours that people can tell apart: each as far as possible from those before it.

    Args:
        count: How many.
        taken: Colours that are in use; black and white count as such, as they are drawn around pictures.

    Returns:
        The same colours for the same arguments, no two equal.

    Distances are Euclidean in CIELAB (CIE 1976), where equal distances look about equal.
    """
    if count <= 0:
        return []
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), -1).reshape(-1, 3)
    places = _lab(grid)
    chosen: list[Color] = []
    nearest = np.full(len(grid), np.inf)
    for color in [(0, 0, 0), (255, 255, 255), *taken]:
        nearest = np.minimum(nearest, np.linalg.norm(places - _lab(np.array([color])), axis=1))
    for number in range(count):
        if number == 0 and not taken:
            best = int(np.abs(grid.astype(int) - _FIRST).sum(1).argmin())
        else:
            best = int(nearest.argmax())
        red, green, blue = (int(value) for value in grid[best])
        chosen.append((red, green, blue))
        nearest = np.minimum(nearest, np.linalg.norm(places - places[best], axis=1))
    return chosen


def _lab(colors: npt.NDArray[np.generic]) -> npt.NDArray[np.float64]:
    """CIELAB (N, 3) of sRGB colours (N, 3) 0..255, white D65 (IEC 61966-2-1; CIE 15)."""
    part = colors.astype(np.float64) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = linear @ to_xyz.T / to_xyz.sum(1)
    root = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = root.T
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)
