"""Trees, bushes, hedges and the backdrop at the horizon."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouds_deploy.streets.dice import Color, Dice, mix, shade

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Brush, Canvas
    from clouds_deploy.streets.domains import Palette
    from clouds_deploy.streets.geometry import Point

_WHITE: Color = (238.0, 242.0, 248.0)


@dataclass(frozen=True)
class Tree:
    """A tree along the street.

    Attributes:
        x: Sideways position in metres.
        z: Distance in metres.
        height: Metres.
    """

    x: float
    z: float
    height: float

    @property
    def depth(self) -> float:
        """Sort key, in metres."""
        return self.z

    @property
    def footprint(self) -> tuple[float, float, float, float, float]:
        """Left, right, near, far and height in metres, for its shadow."""
        return (self.x - 1.4, self.x + 1.4, self.z - 1.2, self.z + 1.2, self.height * 0.8)

    def draw(self, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        """Paints the tree."""
        draw_tree(canvas, self.x, self.z, self.height, palette, dice)


def draw_tree(canvas: Canvas, x: float, z: float, height: float, palette: Palette, dice: Dice) -> None:
    """Paints a tree: trunk and crown, round or a conifer; both are vegetation."""
    camera = canvas.camera
    scale = camera.scale(z)
    foot = camera.point(x, 0.0, z)
    if not -4.0 * scale < foot[0] < canvas.width + 4.0 * scale or height * scale < 5.0:
        return
    leaf = mix(dice.color(palette.leaf), _WHITE, 0.35 * canvas.weather.snow)
    bark = mix((88.0, 66.0, 48.0), (120.0, 112.0, 104.0), dice.roll())
    brush = canvas.brush("vegetation", z)
    thick = max(1.0, 0.13 * scale)
    crown = height * dice.between(0.34, 0.42)
    brush.box(foot[0] - thick, foot[1] - height * 0.6 * scale, foot[0] + thick, foot[1], bark)
    if dice.chance(0.22):
        _conifer(brush, foot, height * scale, leaf, dice)
        return
    middle = (foot[0] + dice.between(-0.2, 0.2) * scale, foot[1] - (height - crown) * scale)
    _blob(brush, middle, crown * scale, dice.between(0.8, 1.15), leaf, dice)


def draw_bush(canvas: Canvas, x: float, z: float, height: float, palette: Palette, dice: Dice) -> None:
    """Paints a bush that stands on the ground."""
    camera = canvas.camera
    scale = camera.scale(z)
    foot = camera.point(x, 0.0, z)
    leaf = mix(shade(dice.color(palette.leaf), 0.95), _WHITE, 0.4 * canvas.weather.snow)
    radius = height * 0.5 * scale
    if radius < 1.5 or not -3.0 * radius < foot[0] < canvas.width + 3.0 * radius:
        return
    middle = (foot[0], foot[1] - radius * 0.92)
    _blob(canvas.brush("vegetation", z), middle, radius, dice.between(1.0, 1.6), leaf, dice)


def _conifer(brush: Brush, foot: Point, tall: float, leaf: Color, dice: Dice) -> None:
    wide = tall * dice.between(0.2, 0.28)
    for tier in range(4):
        low = foot[1] - tall * (0.12 + 0.2 * tier)
        half = wide * (1.0 - 0.2 * tier)
        outline = [(foot[0] - half, low), (foot[0], low - tall * 0.36), (foot[0] + half, low)]
        brush.polygon(outline, shade(leaf, 0.75 + 0.08 * tier))


def _blob(brush: Brush, middle: Point, radius: float, stretch: float, leaf: Color, dice: Dice) -> None:
    """Paints a ragged crown with darker and lighter clumps inside."""
    points = []
    corners = 26 if radius > 12.0 else 14
    leaning = dice.between(0.0, math.tau)
    for corner in range(corners):
        angle = corner * math.tau / corners
        lobes = 0.07 * math.sin(5.0 * angle + leaning) + 0.06 * math.sin(3.0 * angle - leaning)
        reach = radius * (dice.between(0.87, 1.07) + lobes)
        points.append((middle[0] + math.cos(angle) * reach * stretch, middle[1] + math.sin(angle) * reach))
    brush.polygon(points, shade(leaf, 0.85))
    if radius < 3.0:
        return
    for clump in range(16 if radius > 16.0 else (9 if radius > 8.0 else 5)):
        angle, reach = dice.roll() * math.tau, radius * 0.6 * math.sqrt(dice.roll())
        spot = (middle[0] + math.cos(angle) * reach * stretch, middle[1] + math.sin(angle) * reach)
        lift = (middle[1] - spot[1]) / radius
        tone = shade(leaf, 0.9 + 0.28 * lift + dice.between(-0.1, 0.1) - 0.02 * (clump % 2))
        brush.detail_disc(spot, radius * dice.between(0.14, 0.34), tone, stretch=1.2)


def draw_backdrop(canvas: Canvas, palette: Palette, dice: Dice, *, country: bool) -> None:
    """Paints the horizon: hills, woods or the roofs of the town."""
    camera = canvas.camera
    horizon, width = camera.horizon, canvas.width
    if country or dice.chance(0.3):
        hill = dice.color(palette.grass)
        points = [(0.0, horizon + 1.0)]
        points += [(width * i / 8.0, horizon - canvas.height * dice.between(0.01, 0.07)) for i in range(9)]
        points.append((float(width), horizon + 1.0))
        canvas.brush("terrain", 90.0).polygon(points, shade(hill, 0.8))
    wood = dice.color(palette.leaf)
    points = [(0.0, horizon + 2.0)]
    points += [(width * i / 24.0, horizon - canvas.height * dice.between(0.015, 0.06)) for i in range(25)]
    points.append((float(width), horizon + 2.0))
    canvas.brush("vegetation", 110.0).polygon(points, shade(wood, 0.75))
    if country:
        return
    brush = canvas.brush("building", 80.0)
    x = dice.between(-0.05, 0.02)
    while x < 1.0:
        wide = dice.between(0.03, 0.1)
        high = dice.between(0.02, 0.13)
        tone = shade(dice.color(palette.facade), 0.8)
        if dice.chance(0.75):
            brush.box(x * width, horizon - high * canvas.height, (x + wide) * width, horizon + 2.0, tone)
        x += wide
