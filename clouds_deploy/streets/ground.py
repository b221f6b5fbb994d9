"""Sky, road, pavements, grass, and markings on them."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from clouds_deploy.streets.dice import Color, Dice, mix, shade

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Canvas
    from clouds_deploy.streets.domains import Palette
    from clouds_deploy.streets.layout import Layout

_NEAR = 1.0
_PAINT: Color = (232.0, 232.0, 226.0)


def draw_sky(canvas: Canvas, dice: Dice) -> None:
    """Paints the sky: a gradient, clouds, sometimes a sun or a moon."""
    canvas.replace_image(sky_gradient(canvas))
    draw_clouds(canvas, dice)


def sky_gradient(canvas: Canvas) -> npt.NDArray[np.uint8]:
    """Returns the sky without clouds: (H, W, 3) uint8, from the zenith's to the horizon's colour."""
    weather = canvas.weather
    rows = np.linspace(0.0, 1.0, canvas.height, dtype=np.float32) / max(
        canvas.camera.horizon / canvas.height, 0.1
    )
    amount = np.clip(rows, 0.0, 1.0)[:, None]
    top, low = (np.asarray(c, np.float32) for c in weather.sky)
    gradient = top * (1.0 - amount) + low * amount
    pixels = np.broadcast_to(gradient[:, None, :], (canvas.height, canvas.width, 3))
    return np.asarray(np.clip(pixels, 0, 255).astype(np.uint8))


def draw_clouds(canvas: Canvas, dice: Dice) -> None:
    """Paints clouds, sometimes a sun or a moon."""
    weather = canvas.weather
    brush = canvas.brush("sky", 0.0)
    horizon, width = canvas.camera.horizon, canvas.width
    bright = mix(weather.sky[1], (255.0, 255.0, 255.0), 0.6 * (1.0 - weather.night))
    for _ in range(int(weather.clouds * 9)):
        x, y = dice.roll() * width, dice.between(0.0, 0.75) * horizon
        size = dice.between(0.05, 0.16) * horizon
        tone = mix(bright, weather.sky[1], dice.between(0.0, 0.6))
        for _ in range(4):
            spot = (x + dice.between(-2.5, 2.5) * size, y + dice.between(-0.5, 0.5) * size)
            brush.detail_disc(spot, size * dice.between(0.5, 1.0), tone, stretch=2.2, glow=True)
    if weather.name in ("clear", "dusk") and dice.chance(0.3):
        spot = (dice.roll() * width, dice.between(0.1, 0.6) * horizon)
        brush.detail_disc(spot, 0.06 * horizon, (255.0, 248.0, 220.0), glow=True)


def draw_ground(canvas: Canvas, layout: Layout, palette: Palette, dice: Dice, clutter: float) -> None:
    """Paints the ground and the haze in front of it."""
    paint_ground(canvas, layout, palette, dice, clutter)
    _fade(canvas)


def paint_ground(canvas: Canvas, layout: Layout, palette: Palette, dice: Dice, clutter: float) -> None:
    """Paints grass, then pavements, kerbs, road, tracks and markings on it, without haze."""
    snow = canvas.weather.snow
    white: Color = (238.0, 242.0, 248.0)
    road = mix(dice.color(palette.road), white, snow * 0.4)
    pavement = mix(dice.color(palette.pavement), white, snow * 0.75)
    grass = mix(dice.color(palette.grass), white, snow * 0.9)
    kerb = mix(shade(pavement, 1.18), white, 0.15)
    camera, far = canvas.camera, layout.far
    base_label, base = ("terrain", grass) if layout.country else ("sidewalk", shade(pavement, 0.95))
    canvas.fill_ground(base_label, base)
    ground = canvas.brush("sidewalk", 0.0)
    soil = canvas.brush("terrain", 0.0)
    for side in layout.sides:
        walk = side.kerb + side.sign * (side.verge + 0.15)
        outer = side.border + side.sign * 60.0
        if layout.country or dice.chance(0.35):
            soil.polygon(camera.strip(side.border, outer, _NEAR, far), grass)
        if side.pavement > 0.0:
            ground.polygon(camera.strip(walk, side.border, _NEAR, far), pavement)
            _joints(canvas, min(walk, side.border), max(walk, side.border), shade(pavement, 0.88))
        if side.verge > 0.0:
            soil.polygon(camera.strip(side.kerb, walk, _NEAR, far), shade(grass, 1.05))
        ground.polygon(camera.strip(side.kerb, side.kerb + side.sign * 0.3, _NEAR, far), kerb)
    left, right = layout.sides[0].kerb, layout.sides[1].kerb
    tarmac = canvas.brush("road", 0.0)
    tarmac.polygon(camera.strip(left, right, _NEAR, far), road)
    if layout.crossing:
        near, end = layout.crossing
        tarmac.polygon(
            [camera.point(x, 0.0, z) for x, z in ((-90.0, near), (90.0, near), (90.0, end), (-90.0, end))],
            road,
        )
    _patches(canvas, left, right, road, dice.fork(), clutter)
    _markings(canvas, layout, mix(_PAINT, road, 0.1 + 0.5 * snow), dice.fork())
    if layout.tram is not None:
        _rails(canvas, layout, layout.tram, road)


def _joints(canvas: Canvas, left: float, right: float, color: Color) -> None:
    brush = canvas.brush("sidewalk", 0.0)
    z = 2.5
    while z < 14.0:
        brush.detail_line([canvas.camera.point(left, 0.0, z), canvas.camera.point(right, 0.0, z)], 1, color)
        z += 1.2 + z * 0.06


def _patches(canvas: Canvas, left: float, right: float, road: Color, dice: Dice, clutter: float) -> None:
    brush = canvas.brush("road", 0.0)
    for _ in range(int(clutter * 7)):
        x, z = dice.between(left, right - 1.0), dice.between(3.0, 25.0)
        wide, long = dice.between(0.4, 1.8), dice.between(0.5, 3.0)
        tone = shade(road, dice.between(0.72, 1.2))
        brush.detail(canvas.camera.strip(x, min(x + wide, right), z, z + long), tone)
    for _ in range(dice.whole(0, 2)):
        middle = canvas.camera.point(dice.between(left + 0.6, right - 0.6), 0.0, dice.between(4.0, 14.0))
        size = 0.06 * max(middle[1] - canvas.camera.horizon, 1.0)
        brush.detail_disc(middle, size, shade(road, 0.6), stretch=3.0)


def _markings(canvas: Canvas, layout: Layout, paint: Color, dice: Dice) -> None:
    camera = canvas.camera
    brush = canvas.brush("road", 0.0)
    crossing = layout.crossing
    driving = sorted(lane.x for lane in layout.lanes if not lane.parking)
    lines = [(a + b) / 2 for a, b in pairwise(driving) if b - a < 4.0]
    offset = dice.between(0.0, 4.0)
    for x in lines:
        z = 2.0 + offset
        while z < 60.0:
            if not (crossing and crossing[0] - 4.0 < z < crossing[1] + 3.0):
                brush.detail(camera.strip(x - 0.08, x + 0.08, z, z + 2.6), paint)
            z += 5.0
    for side, edge in ((-1, layout.sides[0].kerb), (1, layout.sides[1].kerb)):
        if layout.country or dice.chance(0.25):
            inner = edge - side * 0.35
            end = crossing[0] - 2.0 if crossing else 70.0
            brush.detail(camera.strip(inner - 0.07, inner + 0.07, _NEAR, end), paint)
    left, right = layout.sides[0].kerb, layout.sides[1].kerb
    if crossing or (not layout.country and dice.chance(0.3)):
        start = crossing[0] - 3.4 if crossing else dice.between(7.0, 14.0)
        x = left + 0.3
        while x < right - 0.4:
            brush.detail(camera.strip(x, x + 0.5, start, start + 2.6), paint)
            x += 1.0
    if dice.chance(0.25):
        z = dice.between(4.0, 7.0)
        spots = (
            (-0.1, z),
            (0.1, z),
            (0.1, z + 1.6),
            (0.4, z + 1.6),
            (0.0, z + 2.8),
            (-0.4, z + 1.6),
            (-0.1, z + 1.6),
        )
        brush.detail([camera.point(x, 0.0, depth) for x, depth in spots], paint)


def _rails(canvas: Canvas, layout: Layout, middle: float, road: Color) -> None:
    camera = canvas.camera
    brush = canvas.brush("road", 0.0)
    brush.detail(camera.strip(middle - 1.1, middle + 1.1, _NEAR, layout.far), shade(road, 0.85))
    for x in (middle - 0.72, middle + 0.72):
        brush.detail(camera.strip(x - 0.09, x + 0.09, _NEAR, layout.far), (178.0, 180.0, 186.0))


def _fade(canvas: Canvas) -> None:
    """Adds haze by distance to every row of the ground."""
    camera, weather = canvas.camera, canvas.weather
    start = max(0, int(camera.horizon))
    rows = np.arange(start, canvas.height, dtype=np.float32) + 0.5
    depth = camera.focal * camera.height / np.maximum(rows - camera.horizon, 0.5)
    amount = (1.0 - np.exp(-weather.haze * depth))[:, None, None]
    pixels = np.array(canvas.image)
    ground = pixels[start:].astype(np.float32)
    ground += (np.asarray(weather.haze_color, np.float32) - ground) * amount.astype(np.float32)
    pixels[start:] = ground.astype(np.uint8)
    canvas.replace_image(pixels)
