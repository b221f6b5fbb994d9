"""Buildings, walls and fences: the plots that line a street."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from clouds_deploy.streets import nature
from clouds_deploy.streets.dice import Color, Dice, mix, shade

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Brush, Canvas
    from clouds_deploy.streets.domains import Palette
    from clouds_deploy.streets.geometry import Point

_GLASS: tuple[Color, ...] = (
    (70.0, 90.0, 110.0),
    (45.0, 52.0, 62.0),
    (120.0, 145.0, 165.0),
    (90.0, 85.0, 80.0),
)
_LIT: tuple[Color, ...] = ((255.0, 214.0, 130.0), (250.0, 235.0, 190.0), (200.0, 220.0, 255.0))


@dataclass(frozen=True)
class Plot:
    """A stretch of one side of the street.

    Attributes:
        kind: building, wall, fence or park.
        sign: -1 left, +1 right.
        x: Its front, in metres from the camera (with sign).
        near: Near end (z, metres).
        far: Far end.
        sunny: Whether its front is lit.
        clutter: Chance of dirt and posters.
    """

    kind: str
    sign: int
    x: float
    near: float
    far: float
    sunny: bool
    clutter: float

    @property
    def depth(self) -> float:
        """Sort key: everything in front of it is nearer than its far end."""
        return self.far

    def draw(self, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        """Paints the plot."""
        if self.kind == "building":
            _Building(self, canvas, palette, dice).draw()
        elif self.kind == "wall":
            _garden(self, canvas, palette, dice)
            _wall(self, canvas, palette, dice)
        elif self.kind == "fence":
            _garden(self, canvas, palette, dice)
            _fence(self, canvas, palette, dice)
        else:
            _lawn(self, canvas, palette, dice)
            _garden(self, canvas, palette, dice)


class _Building:
    def __init__(self, plot: Plot, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        self.plot, self.canvas, self.dice = plot, canvas, dice
        self.color = dice.color(palette.facade)
        self.roof = mix(dice.color(palette.roof), (240.0, 243.0, 248.0), 0.9 * canvas.weather.snow)
        self.storey = dice.between(2.8, 3.6)
        self.storeys = dice.whole(2, 6)
        self.pitched = dice.chance(0.5)
        self.height = self.storey * self.storeys + 0.6
        self.brush: Brush = canvas.brush("building", (plot.near + plot.far) / 2)
        self.front = shade(self.color, 1.0 if plot.sunny else 0.76)

    def quad(self, near: float, far: float, low: float, high: float) -> list[Point]:
        return _face(self.plot, self.canvas, near, far, low, high)

    def draw(self) -> None:
        plot, point = self.plot, self.canvas.camera.point
        self._end()
        if self.pitched:
            inner, ridge = plot.x + plot.sign * 5.5, self.height + 3.6
            slope = [point(plot.x, self.height, plot.near), point(inner, ridge, plot.near)]
            slope += [point(inner, ridge, plot.far), point(plot.x, self.height, plot.far)]
            self.brush.polygon(slope, self.roof)
        pieces = max(1, int((plot.far - plot.near) / 6.0)) if self.canvas.camera.bend else 1
        step = (plot.far - plot.near) / pieces
        for piece in range(pieces):
            near = plot.near + piece * step
            self.brush.polygon(self.quad(near, near + step, 0.0, self.height), self.front)
        self.brush.detail(
            self.quad(plot.near, plot.far, self.height - 0.5, self.height), shade(self.front, 0.8)
        )
        self._windows()
        self._ground_floor()

    def _end(self) -> None:
        """Paints the side wall, which is visible where the neighbour is lower or missing."""
        plot, point = self.plot, self.canvas.camera.point
        back = plot.x + plot.sign * 11.0
        face = [point(plot.x, 0.0, plot.near), point(plot.x, self.height, plot.near)]
        if self.pitched:
            face.append(point(plot.x + plot.sign * 5.5, self.height + 3.6, plot.near))
        face += [point(back, self.height, plot.near), point(back, 0.0, plot.near)]
        self.brush.polygon(face, shade(self.color, 0.88))
        scale = self.canvas.camera.scale(plot.near)
        if scale * 1.2 < 3.0:
            return
        glass = self.dice.pick(_GLASS)
        for floor in range(1, self.storeys):
            low = floor * self.storey + 0.9
            for column in range(3):
                x = plot.x + plot.sign * (1.6 + column * 3.2)
                a, b = point(x, low, plot.near), point(x + plot.sign * 1.2, low + 1.4, plot.near)
                left, right = min(a[0], b[0]), max(a[0], b[0])
                self.brush.detail_box(left, b[1], right, a[1], glass, depth=plot.near)

    def _windows(self) -> None:
        plot, camera = self.plot, self.canvas.camera
        bay = self.dice.between(2.2, 3.6)
        wide, tall = bay * self.dice.between(0.38, 0.62), self.storey * self.dice.between(0.45, 0.66)
        frame = self.dice.chance(0.5)
        rim = shade(self.front, 1.25 if self.dice.chance(0.5) else 0.65)
        glass = self.dice.pick(_GLASS)
        night = self.canvas.weather.night
        count = max(1, int((plot.far - plot.near) / bay))
        bay = (plot.far - plot.near) / count
        dice = self.dice.fork()
        for column in range(count):
            near = plot.near + (column + 0.5) * bay - wide / 2
            scale = camera.scale(near)
            a, b = camera.point(plot.x, 0.0, near)[0], camera.point(plot.x, 0.0, near + wide)[0]
            if abs(a - b) < 1.2 or tall * scale < 2.0 or max(a, b) < 0.0 or min(a, b) > self.canvas.width:
                continue
            for floor in range(1, self.storeys):
                low = floor * self.storey + 0.8
                if camera.horizon - (low - camera.height) * camera.scale(near + wide) < 0.0:
                    break
                lit = dice.roll() < 0.45 * night
                color = dice.pick(_LIT) if lit else shade(glass, dice.between(0.8, 1.2))
                if frame and scale > 9.0:
                    border = self.quad(near - 0.18, near + wide + 0.18, low - 0.18, low + tall + 0.18)
                    self.brush.detail(border, rim)
                self.brush.detail(self.quad(near, near + wide, low, low + tall), color, glow=lit)

    def _ground_floor(self) -> None:
        plot, dice = self.plot, self.dice.fork()
        night = self.canvas.weather.night
        shop = dice.chance(0.4)
        z = plot.near + 0.8
        accent = shade(dice.pick((self.roof, self.color, _GLASS[1])), dice.between(0.7, 1.2))
        if shop:
            self.brush.detail(self.quad(plot.near, plot.far, 2.5, 3.0), accent)
        while z + 2.2 < plot.far:
            door = dice.chance(0.25)
            wide = 1.1 if door else (2.0 if shop else 1.3)
            lit = shop and night > 0.3 and dice.chance(0.8)
            tone = shade(accent, 0.7) if door else (dice.pick(_LIT) if lit else dice.pick(_GLASS))
            low, high = (0.0, 2.2) if door else ((0.5, 2.4) if shop else (1.0, 2.3))
            if self.canvas.camera.scale(z) > 3.5:
                self.brush.detail(self.quad(z, z + wide, low, high), tone, glow=lit and not door)
            z += wide + dice.between(0.5, 1.6)
        if dice.chance(plot.clutter):
            z = dice.between(plot.near, plot.far - 1.5)
            low = dice.between(0.5, self.height * 0.5)
            stain = self.quad(z, z + dice.between(0.8, 2.5), low, low + dice.between(0.8, 2.5))
            self.brush.detail(stain, shade(self.front, dice.between(0.6, 1.3)))


def _face(plot: Plot, canvas: Canvas, near: float, far: float, low: float, high: float) -> list[Point]:
    point, x = canvas.camera.point, plot.x
    return [point(x, low, near), point(x, high, near), point(x, high, far), point(x, low, far)]


def _pieces(plot: Plot) -> list[tuple[float, float]]:
    """Stretches of a plot that get longer with distance, far ones first."""
    cuts = [plot.near]
    while cuts[-1] < plot.far:
        cuts.append(min(plot.far, cuts[-1] * 1.12 + 1.2))
    return list(pairwise(cuts))[::-1]


def _wall(plot: Plot, canvas: Canvas, palette: Palette, dice: Dice) -> None:
    height = dice.between(1.9, 3.2)
    color = shade(dice.color(palette.wall), 1.0 if plot.sunny else 0.8)
    back = plot.x + plot.sign * 0.5
    point = canvas.camera.point
    brick = dice.chance(0.6)
    brush = canvas.brush("wall", (plot.near + plot.far) / 2)
    end = [point(plot.x, 0.0, plot.near), point(plot.x, height, plot.near)]
    end += [point(back, height, plot.near), point(back, 0.0, plot.near)]
    brush.polygon(end, shade(color, 0.85))
    for near, far in _pieces(plot):
        brush.polygon(_face(plot, canvas, near, far, 0.0, height), color)
        brush.detail(_face(plot, canvas, near, far, height - 0.22, height), shade(color, 1.25))
        if canvas.camera.scale(near) > 7.0:
            for row in range(1, 4 if brick else 2):
                low = height * row / (4.0 if brick else 2.0)
                line = [point(plot.x, low, near), point(plot.x, low, far)]
                brush.detail_line(line, 1, shade(color, 0.75))
            line = [point(plot.x, 0.0, near), point(plot.x, height, near)]
            brush.detail_line(line, 1, shade(color, 0.7))


def _fence(plot: Plot, canvas: Canvas, palette: Palette, dice: Dice) -> None:
    """Paints rails and pickets; the label covers the whole face, as in Cityscapes."""
    height = dice.between(1.1, 1.9)
    color = dice.color(palette.metal if dice.chance(0.5) else palette.wall)
    gap = shade(mix(dice.color(palette.leaf), color, 0.3), 0.7)
    point = canvas.camera.point
    brush = canvas.brush("fence", (plot.near + plot.far) / 2)
    solid = dice.chance(0.3)
    for near, far in _pieces(plot):
        brush.polygon(_face(plot, canvas, near, far, 0.0, height), shade(color, 0.7) if solid else gap)
        scale = canvas.camera.scale(near)
        for low in (0.12, height - 0.22):
            brush.detail(_face(plot, canvas, near, far, low, low + 0.14), color)
        step = max(0.3, 3.0 / scale)
        z = near
        while z < far:
            top = height + (0.15 if scale > 12.0 else 0.0)
            line = [point(plot.x, 0.0, z), point(plot.x, top, z)]
            brush.detail_line(line, 0.09 * canvas.camera.scale(z), color)
            step = max(0.3, 4.5 * z / (abs(plot.x) * scale))
            z += step


def _lawn(plot: Plot, canvas: Canvas, palette: Palette, dice: Dice) -> None:
    snow = canvas.weather.snow
    grass = mix(dice.color(palette.grass), (238.0, 242.0, 248.0), 0.9 * snow)
    strip = canvas.camera.strip(plot.x, plot.x + plot.sign * 40.0, plot.near, plot.far)
    canvas.brush("terrain", (plot.near + plot.far) / 2).polygon(strip, grass)


def _garden(plot: Plot, canvas: Canvas, palette: Palette, dice: Dice) -> None:
    """Paints trees and bushes behind the border of a plot, far ones first."""
    count = dice.whole(2, 4)
    depths = sorted((dice.between(plot.near + 0.8, plot.far) for _ in range(count)), reverse=True)
    for z in depths:
        x = plot.x + plot.sign * dice.between(1.6, 6.0)
        if dice.chance(0.55):
            nature.draw_tree(canvas, x, z, dice.between(4.0, 8.0), palette, dice.fork())
        else:
            nature.draw_bush(canvas, x, z, dice.between(1.0, 2.4), palette, dice.fork())
