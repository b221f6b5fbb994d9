"""Lamp posts, traffic lights and traffic signs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouds_deploy.streets.dice import Color, Dice, shade

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Brush, Canvas
    from clouds_deploy.streets.domains import Palette
    from clouds_deploy.streets.geometry import Point

_RED: Color = (225.0, 40.0, 35.0)
_AMBER: Color = (250.0, 180.0, 40.0)
_GREEN: Color = (50.0, 215.0, 110.0)
_WHITE: Color = (238.0, 238.0, 235.0)
_BLUE: Color = (35.0, 85.0, 185.0)
_YELLOW: Color = (245.0, 205.0, 45.0)
_SMALLEST = 2.6


@dataclass(frozen=True)
class Post:
    """A pole with a lamp, a traffic light or a sign.

    Attributes:
        kind: lamp, light or sign.
        x: Sideways position in metres.
        z: Distance in metres.
        inward: -1 or +1, the direction of the road.
    """

    kind: str
    x: float
    z: float
    inward: int

    @property
    def depth(self) -> float:
        """Sort key, in metres."""
        return self.z

    def draw(self, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        """Paints the pole and what it carries."""
        metal = dice.color(palette.metal)
        scale = canvas.camera.scale(self.z)
        if self.kind == "lamp":
            _lamp(self, canvas, metal, scale, dice)
        elif self.kind == "light":
            _light(self, canvas, metal, scale, dice)
        else:
            _sign(self, canvas, metal, scale, dice)


def _pole(post: Post, canvas: Canvas, metal: Color, radius: float, height: float) -> tuple[Brush, Point]:
    brush = canvas.brush("pole", post.z)
    foot = canvas.camera.point(post.x, 0.0, post.z)
    scale = canvas.camera.scale(post.z)
    half = max(0.5, radius * scale)
    left, right = foot[0] - half, foot[0] + half - 0.5
    brush.box(left, foot[1] - height * scale, right, foot[1], metal)
    if half > 1.2:
        brush.detail_box(left, foot[1] - height * scale, left + half * 0.5, foot[1], shade(metal, 1.3))
    return brush, (foot[0], foot[1] - height * scale)


def _lamp(post: Post, canvas: Canvas, metal: Color, scale: float, dice: Dice) -> None:
    if 0.2 * scale < 0.8:
        return
    height = dice.between(4.8, 7.0)
    brush, top = _pole(post, canvas, metal, 0.1, height)
    reach = post.inward * dice.between(0.8, 1.8) * scale
    end = (top[0] + reach, top[1] - 0.25 * scale)
    brush.line([top, end], 0.13 * scale, metal)
    half = 0.42 * scale
    brush.box(end[0] - half, end[1], end[0] + half, end[1] + max(1.0, 0.2 * scale), shade(metal, 0.8))
    if canvas.weather.night > 0.2:
        glow: Color = (255.0, 226.0, 160.0)
        brush.detail_box(
            end[0] - half, end[1] + 0.1 * scale, end[0] + half, end[1] + 0.2 * scale, glow, glow=True
        )
        brush.lamp((end[0], end[1] + 0.1 * scale), 2.2 * scale, glow)


def _light(post: Post, canvas: Canvas, metal: Color, scale: float, dice: Dice) -> None:
    wide, tall = 0.26 * scale, 1.25 * scale
    if wide * 2 < _SMALLEST:
        return
    overhead = dice.chance(0.35)
    height = 5.6 if overhead else 3.6
    brush, top = _pole(post, canvas, metal, 0.1, height)
    state = dice.whole(0, 2)
    case = dice.pick(((28.0, 30.0, 32.0), (50.0, 60.0, 50.0), (190.0, 160.0, 40.0)))
    heads = [(top[0], top[1] + (0.9 * scale if overhead else 0.0))]
    if overhead:
        end = (top[0] + post.inward * dice.between(2.5, 4.0) * scale, top[1])
        brush.line([top, end], 0.13 * scale, metal)
        heads.append((end[0], end[1] - 0.2 * scale))
    for x, y in heads:
        head = canvas.brush("traffic light", post.z)
        head.box(x - wide, y, x + wide, y + tall, case)
        for lamp, color in enumerate((_RED, _AMBER, _GREEN)):
            spot = (x, y + tall * (0.2 + 0.3 * lamp))
            on = lamp == state
            head.detail_disc(spot, max(0.7, 0.17 * scale), color if on else shade(color, 0.3), glow=on)
            if on:
                head.lamp(spot, 0.7 * scale, color)


def _sign(post: Post, canvas: Canvas, metal: Color, scale: float, dice: Dice) -> None:
    radius = dice.between(0.42, 0.58)
    if radius * 2 * scale < _SMALLEST:
        return
    height = dice.between(2.4, 3.0)
    _, top = _pole(post, canvas, metal, 0.075, height)
    brush = canvas.brush("traffic sign", post.z)
    size = radius * scale
    y = top[1] + size * 0.8
    _plate(brush, (top[0], y), size, dice)
    if dice.chance(0.4):
        low = y + size * 1.15
        brush.box(top[0] - size * 0.9, low, top[0] + size * 0.9, low + size * 0.8, _WHITE)
        brush.detail_box(
            top[0] - size * 0.5, low + size * 0.3, top[0] + size * 0.5, low + size * 0.5, shade(metal, 0.6)
        )


def _plate(brush: Brush, middle: Point, size: float, dice: Dice) -> None:
    x, y = middle
    kind = dice.whole(0, 5)
    rim = dice.pick((_RED, _RED, _BLUE))
    if kind == 0:
        outline = [(x, y - size), (x + size, y + size * 0.75), (x - size, y + size * 0.75)]
        brush.polygon(outline, _RED)
        inner = [(x, y - size * 0.5), (x + size * 0.58, y + size * 0.5), (x - size * 0.58, y + size * 0.5)]
        brush.detail(inner, _WHITE if dice.chance(0.7) else _YELLOW)
    elif kind == 1:
        brush.box(x - size * 0.9, y - size * 0.9, x + size * 0.9, y + size * 0.9, _BLUE)
        brush.detail_box(x - size * 0.4, y - size * 0.55, x + size * 0.2, y + size * 0.55, _WHITE)
    elif kind == 2:
        corners = [
            (x + math.cos(a) * size, y + math.sin(a) * size)
            for a in (math.pi / 8 + math.pi / 4 * i for i in range(8))
        ]
        brush.polygon(corners, _RED)
        brush.detail_box(x - size * 0.6, y - size * 0.2, x + size * 0.6, y + size * 0.2, _WHITE)
    elif kind == 3:
        brush.polygon([(x, y - size), (x + size, y), (x, y + size), (x - size, y)], _WHITE)
        brush.detail(
            [(x, y - size * 0.6), (x + size * 0.6, y), (x, y + size * 0.6), (x - size * 0.6, y)], _YELLOW
        )
    else:
        brush.disc(middle, size, rim)
        if rim == _RED and kind == 4:
            brush.detail_box(x - size * 0.6, y - size * 0.18, x + size * 0.6, y + size * 0.18, _WHITE)
        else:
            brush.detail_disc(middle, size * 0.68, _WHITE if rim == _RED else shade(_BLUE, 1.1))
            brush.detail_box(
                x - size * 0.15, y - size * 0.4, x + size * 0.15, y + size * 0.4, (30.0, 30.0, 34.0)
            )
