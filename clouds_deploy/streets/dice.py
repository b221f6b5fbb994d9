"""Cheap random numbers that do not depend on the picture's size."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

T = TypeVar("T")
Color = tuple[float, float, float]
"""RGB, each 0..255."""
Tint = tuple[float, float, float, float, float, float]
"""A range of colours: hue from/to (0..1, may run past 1), saturation from/to, value from/to (0..1)."""

_POOL = 4096


class Dice:
    """A cyclic reader over a pool of uniform numbers.

    A scene needs thousands of single numbers; one call of `np.random.Generator` for each would cost
    more than painting the scene. So a block is drawn once; `fork` starts reading it elsewhere, so
    that an object which skips its details when it is small does not change the objects after it.

    Args:
        pool: Uniform numbers in [0, 1).
        position: Of the first number read.
    """

    def __init__(self, pool: Sequence[float], position: int = 0) -> None:
        self._pool = pool
        self._position = position

    @classmethod
    def seeded(cls, generator: np.random.Generator) -> Dice:
        """A reader over numbers of a generator."""
        return cls(generator.random(_POOL).tolist())

    def roll(self) -> float:
        """Next number in [0, 1)."""
        self._position = (self._position + 1) % _POOL
        return self._pool[self._position]

    def fork(self) -> Dice:
        """An independent reader, for the details of one object."""
        return Dice(self._pool, int(self.roll() * _POOL))

    def copy(self) -> Dice:
        """A reader at the same place: it gives the same numbers, and this one goes on as if it weren't."""
        return Dice(self._pool, self._position)

    def between(self, low: float, high: float) -> float:
        """Number in [low, high)."""
        return low + (high - low) * self.roll()

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        return self.roll() < probability

    def whole(self, low: int, high: int) -> int:
        """Integer in low..high, both included."""
        return low + int(self.roll() * (high - low + 1))

    def pick(self, choices: Sequence[T]) -> T:
        """One of several choices, all equally likely."""
        return choices[int(self.roll() * len(choices))]

    def weighted(self, weights: Mapping[str, float]) -> str:
        """A key, with probability proportional to its weight."""
        rest = self.roll() * sum(weights.values())
        for name, weight in weights.items():
            rest -= weight
            if rest < 0.0:
                return name
        return next(reversed(list(weights)))

    def color(self, tints: Sequence[Tint]) -> Color:
        """Colour from one of several ranges."""
        hue_from, hue_to, low, high, dark, bright = self.pick(tints)
        red, green, blue = colorsys.hsv_to_rgb(
            self.between(hue_from, hue_to) % 1.0, self.between(low, high), self.between(dark, bright)
        )
        return (red * 255.0, green * 255.0, blue * 255.0)


def shade(color: Color, factor: float) -> Color:
    """Darker (factor below 1) or brighter (above 1) colour."""
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def mix(first: Color, second: Color, amount: float) -> Color:
    """Blend of two colours: amount 0 is the first, 1 the second."""
    rest = 1.0 - amount
    return (
        first[0] * rest + second[0] * amount,
        first[1] * rest + second[1] * amount,
        first[2] * rest + second[2] * amount,
    )
