"""Pedestrians, and riders with their bicycles and motorcycles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from clouds_deploy.streets.dice import Color, Dice, shade

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Brush, Canvas
    from clouds_deploy.streets.domains import Palette
    from clouds_deploy.streets.geometry import Point

_SKIN: tuple[Color, ...] = (
    (240.0, 205.0, 180.0),
    (215.0, 170.0, 135.0),
    (165.0, 115.0, 80.0),
    (105.0, 70.0, 48.0),
)
_HAIR: tuple[Color, ...] = (
    (30.0, 25.0, 22.0),
    (90.0, 60.0, 35.0),
    (190.0, 155.0, 95.0),
    (150.0, 150.0, 150.0),
)
_TYRE: Color = (26.0, 26.0, 28.0)


class _Sketch:
    """A flat figure on the ground, facing the camera: metres to the right and up from its foot."""

    def __init__(self, canvas: Canvas, label: str, x: float, z: float, turn: float) -> None:
        self.scale = canvas.camera.scale(z)
        self.foot = canvas.camera.point(x, 0.0, z)
        self.turn = turn
        self.in_view = -1.2 * self.scale < self.foot[0] < canvas.width + 1.2 * self.scale
        self.brush: Brush = canvas.brush(label, z, instance=canvas.new_instance())

    def at(self, right: float, up: float) -> Point:
        return (self.foot[0] + right * self.turn * self.scale, self.foot[1] - up * self.scale)

    def limb(self, points: list[tuple[float, float]], thick: float, color: Color) -> None:
        """Draws a limb as a chain of quads that is never thinner than a pixel."""
        half = max(thick * self.scale, 1.0) / 2
        spots = [self.at(*p) for p in points]
        for a, b in pairwise(spots):
            dx, dy = b[0] - a[0], b[1] - a[1]
            size = math.hypot(dx, dy) or 1.0
            ox, oy = -dy / size * half, dx / size * half
            quad = [
                (a[0] + ox, a[1] + oy),
                (b[0] + ox, b[1] + oy),
                (b[0] - ox, b[1] - oy),
                (a[0] - ox, a[1] - oy),
            ]
            self.brush.polygon(quad, color)

    def shape(self, points: list[tuple[float, float]], color: Color) -> None:
        self.brush.polygon([self.at(*p) for p in points], color)

    def head(self, right: float, up: float, skin: Color, hair: Color, size: float = 0.135) -> None:
        radius = max(size * self.scale, 0.9)
        middle = self.at(right, up)
        self.brush.disc(middle, radius * 1.1, skin, stretch=0.85)
        if radius > 1.2:
            top = (middle[0], middle[1] - radius * 0.45)
            self.brush.detail_disc(top, radius * 0.65, hair, stretch=1.35)


@dataclass(frozen=True)
class Person:
    """A pedestrian.

    Attributes:
        x: Sideways position in metres.
        z: Distance in metres.
        height: Metres.
        side: True when seen from the side.
    """

    x: float
    z: float
    height: float
    side: bool

    @property
    def depth(self) -> float:
        """Sort key, in metres."""
        return self.z

    @property
    def footprint(self) -> tuple[float, float, float, float, float]:
        """Left, right, near, far and height in metres, for the shadow."""
        return (self.x - 0.25, self.x + 0.25, self.z - 0.2, self.z + 0.2, self.height)

    @staticmethod
    def facing(dice: Dice) -> float:
        """Returns 1 for a pedestrian who faces right, -1 for left: the first of its random numbers."""
        return 1.0 if dice.chance(0.5) else -1.0

    def draw(self, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        """Paints the pedestrian."""
        sketch = _Sketch(canvas, "person", self.x, self.z, self.facing(dice))
        if sketch.scale * self.height < 7.0 or not sketch.in_view:
            return
        h = self.height / 1.75
        coat, trousers = dice.color(palette.cloth), dice.color(palette.cloth)
        skin, hair = dice.pick(_SKIN), dice.pick(_HAIR)
        stride = dice.between(0.1, 0.32) * h if self.side else 0.0
        stance = 0.1 * h
        if dice.chance(0.2):
            hem = [(-0.13 * h, 1.0 * h), (0.13 * h, 1.0 * h), (0.24 * h, 0.45 * h), (-0.24 * h, 0.45 * h)]
            trousers = skin if dice.chance(0.6) else trousers
        else:
            hem = []
        for sign in (-1.0, 1.0):
            foot = sign * (stride if self.side else stance)
            tone = shade(trousers, 0.85 if sign < 0 else 1.0)
            sketch.limb(
                [(sign * 0.07 * h, 0.92 * h), (foot * 0.7 + 0.03 * h, 0.48 * h), (foot, 0.03)], 0.17 * h, tone
            )
            sketch.limb([(foot - 0.05 * h, 0.04), (foot + 0.12 * h, 0.04)], 0.09 * h, (35.0, 30.0, 30.0))
        if hem:
            sketch.shape(hem, shade(coat, 0.9))
        wide = (0.17 if self.side else 0.23) * h
        swing = dice.between(-0.2, 0.25) * h if self.side else 0.28 * h
        arm = shade(coat, 0.8)
        sketch.limb([(-wide, 1.4 * h), (-swing, 1.1 * h), (-swing * 0.9, 0.85 * h)], 0.11 * h, arm)
        low = 0.6 * h if dice.chance(0.3) else 0.85 * h
        body = [
            (-wide, 1.42 * h),
            (-wide * 0.8, low),
            (wide * 0.8, low),
            (wide, 1.42 * h),
            (0.06 * h, 1.5 * h),
        ]
        sketch.shape([*body, (-0.06 * h, 1.5 * h)], coat)
        sketch.limb([(wide, 1.4 * h), (swing, 1.1 * h), (swing * 0.9 + 0.06, 0.85 * h)], 0.11 * h, arm)
        if dice.chance(0.35):
            bag = dice.color(palette.cloth)
            x = -wide - 0.1 * h if self.side else 0.3 * h
            top = 1.38 * h if self.side else 0.85 * h
            sketch.shape(
                [(x - 0.1, top), (x + 0.1, top), (x + 0.1, top - 0.4 * h), (x - 0.1, top - 0.4 * h)], bag
            )
        sketch.head(0.03 * h if self.side else 0.0, 1.63 * h, skin, hair, 0.13 * h)


@dataclass(frozen=True)
class Cycle:
    """A bicycle or a motorcycle, with or without its rider.

    Attributes:
        kind: bicycle or motorcycle.
        x: Sideways position in metres.
        z: Distance in metres.
        turn: -1..1, how much of its length is seen: 0 from the front, 1 facing right, -1 facing left.
        ridden: True when someone sits on it.
    """

    kind: str
    x: float
    z: float
    turn: float
    ridden: bool

    @property
    def depth(self) -> float:
        """Sort key, in metres."""
        return self.z

    @property
    def footprint(self) -> tuple[float, float, float, float, float]:
        """Left, right, near, far and height in metres, for the shadow."""
        half = max(0.2, abs(self.turn) * 0.9)
        return (self.x - half, self.x + half, self.z - 0.25, self.z + 0.25, 1.7 if self.ridden else 1.0)

    def draw(self, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        """Paints the cycle, then its rider."""
        sketch = _Sketch(canvas, self.kind, self.x, self.z, self.turn)
        if sketch.scale * 1.2 < 6.0 or not sketch.in_view:
            return
        paint = dice.color(palette.vehicle)
        if abs(self.turn) < 0.35:
            self._draw_front(sketch, canvas, palette, paint, dice)
            return
        if self.kind == "bicycle":
            _bicycle(sketch, paint)
        else:
            _motorcycle(sketch, paint)
        if self.ridden:
            _rider(_Sketch(canvas, "rider", self.x, self.z, self.turn), palette, dice, self.kind)

    def _draw_front(
        self, sketch: _Sketch, canvas: Canvas, palette: Palette, paint: Color, dice: Dice
    ) -> None:
        sketch.turn = 1.0
        motor = self.kind == "motorcycle"
        thick = 0.2 if motor else 0.1
        sketch.limb([(0.0, 0.0), (0.0, 0.68)], thick, _TYRE)
        sketch.limb([(0.0, 0.5), (0.0, 1.02)], 0.3 if motor else 0.09, paint)
        sketch.limb([(-0.36, 1.05), (0.36, 1.05)], 0.1 if motor else 0.07, (50.0, 50.0, 54.0))
        if motor:
            sketch.shape([(-0.24, 0.55), (-0.24, 0.98), (0.24, 0.98), (0.24, 0.55)], paint)
        away = dice.chance(0.5)
        lamp: Color = (200.0, 30.0, 30.0) if away else (250.0, 245.0, 220.0)
        spot = sketch.at(0.0, 0.86)
        if sketch.scale > 8.0:
            sketch.brush.detail_disc(spot, max(0.8, 0.1 * sketch.scale), lamp, glow=True)
        sketch.brush.lamp(spot, 0.5 * sketch.scale, lamp)
        if not self.ridden:
            return
        rider = _Sketch(canvas, "rider", self.x, self.z, 1.0)
        coat, trousers = dice.color(palette.cloth), dice.color(palette.cloth)
        for sign in (-1.0, 1.0):
            knee = 0.28 if motor else 0.17
            rider.limb([(sign * 0.1, 0.95), (sign * knee, 0.72), (sign * 0.16, 0.3)], 0.15, trousers)
            rider.limb([(sign * 0.22, 1.42), (sign * 0.38, 1.2), (sign * 0.34, 1.07)], 0.12, shade(coat, 0.8))
        rider.shape([(-0.23, 1.47), (-0.17, 0.92), (0.17, 0.92), (0.23, 1.47)], coat)
        _helmet(rider, 0.0, 1.64, palette, dice, motor)


def _wheel(sketch: _Sketch, right: float, radius: float, *, solid: bool) -> None:
    middle = sketch.at(right, radius)
    size = radius * sketch.scale
    stretch = max(abs(sketch.turn), 0.3)
    sketch.brush.disc(middle, size, _TYRE, stretch=stretch)
    inner = size - max(1.0, (0.12 if solid else 0.06) * sketch.scale)
    if inner > 0.8:
        sketch.brush.detail_disc(middle, inner, (120.0, 120.0, 122.0), stretch=stretch)
        if solid and inner > 2.0:
            sketch.brush.detail_disc(middle, inner * 0.4, (60.0, 60.0, 64.0), stretch=stretch)


def _bicycle(sketch: _Sketch, paint: Color) -> None:
    for right in (-0.53, 0.53):
        _wheel(sketch, right, 0.34, solid=False)
    sketch.limb([(-0.53, 0.34), (0.0, 0.3), (0.38, 0.78), (-0.18, 0.78), (-0.53, 0.34)], 0.07, paint)
    sketch.limb([(0.0, 0.3), (-0.2, 0.92)], 0.06, paint)
    sketch.limb([(0.53, 0.34), (0.36, 1.0), (0.5, 1.02)], 0.06, shade(paint, 0.8))
    sketch.limb([(-0.34, 0.93), (-0.08, 0.93)], 0.09, (40.0, 36.0, 34.0))


def _motorcycle(sketch: _Sketch, paint: Color) -> None:
    for right in (-0.68, 0.7):
        _wheel(sketch, right, 0.33, solid=True)
    sketch.shape([(-0.4, 0.32), (-0.38, 0.7), (0.35, 0.75), (0.3, 0.3)], (70.0, 70.0, 75.0))
    sketch.shape([(-0.95, 0.82), (-0.4, 0.66), (0.1, 0.7), (-0.05, 0.85), (-0.7, 0.9)], (36.0, 34.0, 36.0))
    sketch.shape([(-0.05, 0.7), (0.0, 0.98), (0.4, 1.0), (0.52, 0.72)], paint)
    sketch.limb([(0.7, 0.33), (0.44, 1.08), (0.28, 1.12)], 0.09, (130.0, 132.0, 138.0))
    sketch.shape([(0.42, 0.85), (0.46, 1.1), (0.62, 1.0), (0.6, 0.82)], shade(paint, 1.1))
    sketch.limb([(-0.9, 0.38), (-0.2, 0.34)], 0.1, (150.0, 150.0, 155.0))


def _helmet(sketch: _Sketch, right: float, up: float, palette: Palette, dice: Dice, motor: bool) -> None:
    skin, hair = dice.pick(_SKIN), dice.pick(_HAIR)
    if motor:
        sketch.head(right, up, dice.color(palette.vehicle), (40.0, 42.0, 48.0), 0.16)
    else:
        sketch.head(right, up, skin, dice.color(palette.vehicle) if dice.chance(0.5) else hair)


def _rider(sketch: _Sketch, palette: Palette, dice: Dice, kind: str) -> None:
    coat, trousers = dice.color(palette.cloth), dice.color(palette.cloth)
    motor = kind == "motorcycle"
    hip = (-0.25, 0.92) if motor else (-0.2, 0.98)
    neck = (0.1, 1.45) if motor else (0.14, 1.48)
    foot = (0.05, 0.35) if motor else (0.05, 0.2)
    knee = (0.22, 0.72) if motor else (0.22, 0.66)
    sketch.limb([hip, knee, foot], 0.17, trousers)
    sketch.limb([foot, (foot[0] + 0.16, foot[1])], 0.09, (35.0, 30.0, 30.0))
    sketch.shape(
        [
            (hip[0] - 0.14, hip[1]),
            (neck[0] - 0.2, neck[1]),
            (neck[0] + 0.08, neck[1]),
            (hip[0] + 0.16, hip[1]),
        ],
        coat,
    )
    sketch.limb([(neck[0] - 0.05, neck[1] - 0.06), (0.28, 1.16), (0.42, 1.06)], 0.11, shade(coat, 0.8))
    _helmet(sketch, neck[0] + 0.06, neck[1] + 0.17, palette, dice, motor)
