"""SAM's low-resolution masks at an image's own size, without a deep-learning library.

`segment_anything` resizes logits twice, each time bilinearly, and cuts them at zero. A pixel between logits
of one sign has that sign, so only the pixels along a mask's outline are computed: in float32 and in the order
of operations of PyTorch's kernel (fused multiply-add), so that no pixel differs from PyTorch's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class _Axis:
    """Where the pixels of one resized axis lie: each between two of the original, with a weight for both."""

    lower: Indices
    upper: Indices
    lower_weight: Doubles
    upper_weight: Doubles

    @staticmethod
    def of(count: int, resized: int) -> _Axis:
        """Axis of `count` pixels resized to `resized`."""
        scale = float(np.float32(count) / np.float32(resized))
        place = np.maximum(scale * (np.arange(resized) + 0.5) - 0.5, 0.0).astype(np.float32)
        lower = np.minimum(place.astype(np.intp), count - 1)
        weight = np.clip(place - lower.astype(np.float32), 0, 1)
        rest = np.float32(1) - weight
        return _Axis(lower, np.minimum(lower + 1, count - 1), rest.astype(float), weight.astype(float))

    def at(self, where: Indices) -> _Axis:
        """The same for some of its pixels."""
        return _Axis(self.lower[where], self.upper[where], self.lower_weight[where], self.upper_weight[where])


def full_masks(
    low_res: Floats, square: tuple[int, int], fitted: tuple[int, int], size: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """Resizes logits to the square that SAM sees, cuts out the image, resizes it to its size, cuts at zero.

    Args:
        low_res: (P, h, w) float32 logits.
        square: Rows and columns that they are first resized to.
        fitted: Rows and columns of these that the image fills.
        size: Height and width of the image.

    Returns:
        (P, height, width) bool: where the resized logits are above zero.

    Source: `Sam.postprocess_masks` of `segment_anything`.
    """
    first = _Axis.of(low_res.shape[1], square[0]), _Axis.of(low_res.shape[2], square[1])
    second = _Axis.of(fitted[0], size[0]), _Axis.of(fitted[1], size[1])
    rows, columns = (a.lower[b.lower] for a, b in zip(first, second, strict=True))
    reach = [
        int((a.upper[b.upper] - low).max(initial=0)) + 1
        for a, b, low in zip(first, second, (rows, columns), strict=True)
    ]
    positive = low_res > 0
    state = _window(positive, reach, np.logical_and).astype(np.uint8)
    state += _window(positive, reach, np.logical_or)  # 0 surely outside, 2 surely inside, 1 along the outline
    masks = np.empty((len(low_res), *size), np.bool_)
    for logits, cells, mask in zip(low_res, state, masks, strict=True):
        pixels = cells.take(columns, 1, mode="clip").take(rows, 0, mode="clip")
        np.equal(pixels, 2, out=mask)
        outline = np.flatnonzero(pixels == 1)
        y, x = np.divmod(outline, size[1])
        places = second[0].at(y), second[1].at(x)
        values = _twice(logits.ravel(), logits.shape[1], first, places)
        mask.ravel()[outline] = values > 0
    return masks


def _window(values: npt.NDArray[np.bool_], reach: list[int], join: np.ufunc) -> npt.NDArray[np.bool_]:
    """Joins every value with those up to `reach - 1` rows below and columns to the right."""
    joined: npt.NDArray[np.bool_] = values.copy()
    for axis, count in zip((1, 2), reach, strict=True):
        values = joined.copy()
        for step in range(1, count):
            place: list[slice] = [slice(None)] * 3
            beyond = list(place)
            place[axis], beyond[axis] = slice(None, -step), slice(step, None)
            join(joined[tuple(place)], values[tuple(beyond)], out=joined[tuple(place)])
    return joined


def _twice(logits: Floats, stride: int, first: tuple[_Axis, _Axis], second: tuple[_Axis, _Axis]) -> Doubles:
    """Values of some pixels after both resizings, each given by its rows and columns."""
    (rows, columns), (y, x) = first, second

    def once(row: Indices, column: Indices) -> Doubles:
        down, across = rows.at(row), columns.at(column)
        above, below = down.lower * stride, down.upper * stride
        return _between(
            down,
            _between(across, logits[above + across.lower], logits[above + across.upper]),
            _between(across, logits[below + across.lower], logits[below + across.upper]),
        )

    return _between(
        y,
        _between(x, once(y.lower, x.lower), once(y.lower, x.upper)),
        _between(x, once(y.upper, x.lower), once(y.upper, x.upper)),
    )


def _between(axis: _Axis, low: npt.NDArray[np.floating], high: npt.NDArray[np.floating]) -> Doubles:
    """Weighs two values as PyTorch does: `fma(low, lower_weight, high * upper_weight)` in float32.

    Products of two float32 are exact in float64, so what is rounded here is what is rounded there.
    """
    product = (high * axis.upper_weight).astype(np.float32)
    return (low * axis.lower_weight + product).astype(np.float32).astype(np.float64)
