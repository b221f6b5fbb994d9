"""Cars, trucks, buses and trams: side profiles extruded to their width."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clouds_deploy.streets.dice import Color, Dice, mix, shade
from clouds_deploy.streets.geometry import Frame

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Brush, Canvas
    from clouds_deploy.streets.domains import Palette

LENGTH = {"car": 4.3, "truck": 8.0, "bus": 11.0, "train": 24.0}
"""Metres; the length of a vehicle varies a little around it."""
WIDTH = {"car": 1.8, "truck": 2.4, "bus": 2.5, "train": 2.5}

_GLASS: tuple[Color, ...] = ((48.0, 58.0, 70.0), (28.0, 32.0, 40.0), (95.0, 120.0, 140.0))
_TYRE: Color = (24.0, 24.0, 26.0)
_HEAD: Color = (250.0, 246.0, 225.0)
_TAIL: Color = (205.0, 25.0, 25.0)

Profile = tuple[tuple[float, float, str], ...]
"""Corners (length, height) from the lower end of the tail over the roof to the lower end of the nose, and the
material of the edge that starts there: body, glass, roof or dark. Length -0.5..0.5, height in metres."""

_CARS: tuple[Profile, ...] = (
    (
        (-0.5, 0.3, "body"), (-0.5, 0.88, "body"), (-0.34, 0.95, "glass"), (-0.2, 1.44, "roof"),
        (0.1, 1.44, "glass"), (0.25, 0.96, "body"), (0.48, 0.82, "body"), (0.5, 0.3, "dark"),
    ),
    (
        (-0.5, 0.3, "body"), (-0.49, 0.95, "glass"), (-0.4, 1.5, "roof"), (0.1, 1.5, "glass"),
        (0.28, 1.0, "body"), (0.49, 0.86, "body"), (0.5, 0.3, "dark"),
    ),
    (
        (-0.5, 0.35, "body"), (-0.5, 1.1, "glass"), (-0.44, 1.75, "roof"), (0.12, 1.75, "glass"),
        (0.27, 1.15, "body"), (0.49, 1.02, "body"), (0.5, 0.35, "dark"),
    ),
    (
        (-0.5, 0.35, "body"), (-0.5, 1.2, "glass"), (-0.48, 1.95, "roof"), (0.24, 1.95, "glass"),
        (0.42, 1.15, "body"), (0.5, 0.95, "body"), (0.5, 0.35, "dark"),
    ),
)  # fmt: skip
_SIDE_WINDOWS = (((-0.3, 0.02), (0.05, 0.2)), ((-0.4, -0.02), (0.02, 0.22)), ((-0.44, 0.0), (0.03, 0.22)),
                 ((0.1, 0.36), (0.1, 0.36)))  # fmt: skip


@dataclass(frozen=True)
class Vehicle:
    """One car, truck, bus or tram.

    Attributes:
        kind: Its class name.
        x: Sideways position of its middle in metres.
        z: Distance of its middle in metres.
        heading: Radians, see `Frame`.
        length: Metres.
    """

    kind: str
    x: float
    z: float
    heading: float
    length: float

    @property
    def depth(self) -> float:
        """Sort key: its nearest point."""
        return self.z - abs(math.cos(self.heading)) * self.length / 2

    @property
    def footprint(self) -> tuple[float, float, float, float, float]:
        """Left, right, near, far and height in metres, for its shadow."""
        long, wide = self.length / 2, WIDTH[self.kind] / 2
        sine, cosine = abs(math.sin(self.heading)), abs(math.cos(self.heading))
        across, along = sine * long + cosine * wide, cosine * long + sine * wide
        return (
            self.x - across,
            self.x + across,
            self.z - along,
            self.z + along,
            1.4 if self.kind == "car" else 3.0,
        )

    def draw(self, canvas: Canvas, palette: Palette, dice: Dice) -> None:
        """Paints the vehicle."""
        frame = Frame(canvas.camera, self.x, self.z, self.heading)
        if frame.scale * WIDTH[self.kind] < 4.0:
            return
        columns = [frame.point(end * self.length / 2, 0.0, 0.0)[0] for end in (-1, 1)]
        margin = 2.0 * frame.scale
        if max(columns) < -margin or min(columns) > canvas.width + margin:
            return
        brush = canvas.brush(self.kind, self.z, instance=canvas.new_instance())
        body = _Body(brush, frame, self.length, WIDTH[self.kind] / 2, dice)
        paint = dice.color(palette.vehicle)
        if self.kind == "car":
            _car(body, paint)
        elif self.kind == "truck":
            _truck(body, paint, dice.color(palette.vehicle))
        elif self.kind == "bus":
            _bus(body, paint, dice.color(palette.vehicle))
        else:
            _tram(body, paint, dice.color(palette.vehicle))


class _Body:
    """Painter of solids on a vehicle's axes, with only their visible faces."""

    def __init__(self, brush: Brush, frame: Frame, length: float, half: float, dice: Dice) -> None:
        self.brush, self.frame, self.dice = brush, frame, dice
        self.length, self.half = length, half
        self.glass = dice.pick(_GLASS)
        self.side = 1.0 if frame.eye_width > 0.0 else -1.0
        self.side_seen = abs(frame.eye_width) > half
        self.fine = frame.scale > 5.0
        self.dim = dice.between(0.7, 0.85)

    def solid(self, profile: Profile, paint: Color) -> None:
        """Paints an extruded profile: ends and roof, then the side."""
        frame, half = self.frame, self.half
        corners = [(along * self.length, y, kind) for along, y, kind in profile]
        edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
        faces = edges if frame.eye_length > 0.0 else edges[::-1]
        for (l0, y0, kind), (l1, y1, _) in faces:
            outward = (y0 - y1) * (frame.eye_length - l0) + (l1 - l0) * (frame.eye_height - y0)
            if outward <= 0.0:
                continue
            quad = [frame.point(l0, -half, y0), frame.point(l0, half, y0)]
            quad += [frame.point(l1, half, y1), frame.point(l1, -half, y1)]
            if kind == "glass":
                self.brush.polygon(quad, paint)
                self._inset(l0, y0, l1, y1)
            else:
                tone = {"roof": 1.12, "dark": 0.3, "body": 0.95}[kind]
                self.brush.polygon(quad, shade(paint, tone))
        if self.side_seen:
            outline = [frame.point(along, self.side * half, y) for along, y, _ in corners]
            self.brush.polygon(outline, shade(paint, self.dim))

    def _inset(self, l0: float, y0: float, l1: float, y1: float) -> None:
        inner = self.half * 0.86
        a, b = 0.12, 0.9
        l2, y2, l3, y3 = l0 + (l1 - l0) * a, y0 + (y1 - y0) * a, l0 + (l1 - l0) * b, y0 + (y1 - y0) * b
        point = self.frame.point
        quad = [point(l2, -inner, y2), point(l2, inner, y2), point(l3, inner, y3), point(l3, -inner, y3)]
        self.brush.detail(quad, self.glass)

    def panel(
        self, l0: float, l1: float, low: float, high: float, color: Color, *, glow: bool = False
    ) -> None:
        """Paints a rectangle on the visible side; lengths in metres."""
        if not self.side_seen:
            return
        point, w = self.frame.point, self.side * self.half
        quad = [point(l0, w, low), point(l0, w, high), point(l1, w, high), point(l1, w, low)]
        self.brush.detail(quad, color, glow=glow)

    def plate(self, end: float, left: float, right: float, low: float, high: float, color: Color) -> None:
        """Paints a rectangle on a visible end; `across` is -1..1 of half the width."""
        if (self.frame.eye_length - end) * end <= 0.0:
            return
        point, half = self.frame.point, self.half
        a, b = left * half, right * half
        self.brush.detail(
            [point(end, a, low), point(end, a, high), point(end, b, high), point(end, b, low)], color
        )

    def lights(self, low: float, high: float, *, night_radius: float = 0.7) -> None:
        """Paints head lights and tail lights."""
        for end, color in ((self.length / 2, _HEAD), (-self.length / 2, _TAIL)):
            if (self.frame.eye_length - end) * end <= 0.0:
                continue
            for sign in (-1.0, 1.0):
                a, b = sorted((sign * 0.92 * self.half, sign * 0.58 * self.half))
                point = self.frame.point
                quad = [point(end, a, low), point(end, a, high), point(end, b, high), point(end, b, low)]
                self.brush.detail(quad, color, glow=True)
                radius = night_radius * self.frame.scale
                self.brush.lamp(point(end, (a + b) / 2, (low + high) / 2), radius, color)

    def wheels(self, spots: tuple[float, ...], radius: float) -> None:
        """Paints the wheels of the visible side, and the tyres under the visible end."""
        point, half = self.frame.point, self.half
        for end in (self.length / 2, -self.length / 2):
            if (self.frame.eye_length - end) * end > 0.0:
                axle = end * 0.86
                low, high = 0.22, radius * 1.6
                under = [point(axle, -half, low), point(axle, -half, high)]
                under += [point(axle, half, high), point(axle, half, low)]
                self.brush.polygon(under, (30.0, 30.0, 33.0))
                for sign in (-1.0, 1.0):
                    a, b = sign * half * 0.97, sign * half * 0.7
                    quad = [
                        point(axle, a, 0.0),
                        point(axle, a, high),
                        point(axle, b, high),
                        point(axle, b, 0.0),
                    ]
                    self.brush.polygon(quad, _TYRE)
        if not self.side_seen:
            return
        w = self.side * half
        for spot in spots:
            ring = [(math.cos(t) * radius, math.sin(t) * radius) for t in _TURN]
            self.brush.polygon([point(spot + c, w, max(0.0, radius + s)) for c, s in ring], _TYRE)
            if self.frame.scale * radius > 2.5:
                hub = [point(spot + c * 0.5, w, radius + s * 0.5) for c, s in ring]
                self.brush.detail(hub, (150.0, 152.0, 156.0))


_TURN: tuple[float, ...] = tuple(i * math.tau / 10 for i in range(10))


def _car(body: _Body, paint: Color) -> None:
    choice = body.dice.whole(0, 3)
    length = body.length
    body.wheels((), 0.33)
    body.solid(_CARS[choice], paint)
    top = max(y for _, y, _ in _CARS[choice])
    low = 1.0 if top < 1.6 else 1.2
    for a, b in _SIDE_WINDOWS[choice]:
        body.panel(a * length, b * length, low, top - 0.1, body.glass)
    if body.fine:
        body.plate(-length / 2, -0.3, 0.3, 0.5, 0.68, (235.0, 232.0, 215.0))
        body.plate(length / 2, -0.5, 0.5, 0.45, 0.68, (40.0, 40.0, 44.0))
    body.lights(0.66, 0.86)
    body.wheels((-0.31 * length, 0.31 * length), 0.34)


def _box(low: float, high: float, back: float, front: float, nose: str = "body") -> Profile:
    return ((back, low, "body"), (back, high, "roof"), (front, high, nose), (front, low, "dark"))


def _truck(body: _Body, paint: Color, load: Color) -> None:
    length, dice = body.length, body.dice
    cab: Profile = (
        (0.27, 0.5, "body"), (0.27, 2.7, "roof"), (0.46, 2.7, "glass"), (0.5, 1.5, "body"),
        (0.5, 0.5, "dark"),
    )  # fmt: skip
    high = dice.between(2.9, 3.5)
    box = _box(0.95, high, -0.5, 0.24)
    chassis = _box(0.45, 0.95, -0.48, 0.45)
    tanker = dice.chance(0.2)
    cargo = mix(load, (225.0, 225.0, 225.0), 0.6 if dice.chance(0.5) else 0.0)

    def draw_cab() -> None:
        body.solid(cab, paint)
        body.panel(0.34 * length, 0.455 * length, 1.6, 2.4, body.glass)
        body.plate(length / 2, -0.7, 0.7, 0.95, 1.3, (42.0, 42.0, 46.0))

    def draw_box() -> None:
        body.solid(chassis, (46.0, 46.0, 50.0))
        body.solid(box, cargo)
        if tanker:
            body.panel(-0.48 * length, 0.22 * length, 1.7, 2.0, shade(cargo, 0.6))
        elif body.fine:
            body.panel(-0.42 * length, 0.16 * length, 1.6, 2.4, shade(paint, 0.9))
        body.plate(-length / 2, -0.04, 0.04, 1.0, high - 0.1, shade(cargo, 0.6))
        body.plate(-length / 2, -1.0, 1.0, 0.95, 1.1, shade(cargo, 0.5))

    body.wheels((), 0.48)
    parts = (draw_cab, draw_box) if body.frame.eye_length < 0.14 * length else (draw_box, draw_cab)
    for part in parts:
        part()
    body.lights(0.62, 0.86)
    body.wheels((-0.4 * length, -0.26 * length, 0.38 * length), 0.48)


def _bus(body: _Body, paint: Color, second: Color) -> None:
    length, dice = body.length, body.dice
    double = dice.chance(0.15)
    high = 4.1 if double else 3.05
    body.wheels((), 0.48)
    body.solid(_box(0.35, high, -0.5, 0.5), paint)
    body.panel(-length / 2, length / 2, 0.4, 0.85, second if dice.chance(0.5) else shade(paint, 0.6))
    windows = max(4, int(length / 1.6))
    step = length * 0.96 / windows
    for low in (1.35, 2.9) if double else (1.35,):
        for index in range(windows):
            a = -length * 0.48 + index * step
            body.panel(a + 0.1, a + step - 0.1, low, low + (0.95 if double else 1.15), body.glass)
    for door in (-0.05, 0.38):
        body.panel(door * length, door * length + 1.2, 0.45, 2.5, shade(body.glass, 0.75))
    for end in (length / 2, -length / 2):
        body.plate(end, -0.88, 0.88, 1.2 if end > 0 else 1.55, 2.45, body.glass)
        body.plate(end, -0.6, 0.6, high - 0.42, high - 0.14, (30.0, 30.0, 26.0))
        body.plate(end, -0.35, 0.35, high - 0.36, high - 0.2, (245.0, 180.0, 50.0))
    body.lights(0.6, 0.85)
    body.wheels((-0.27 * length, 0.33 * length), 0.48)


def _tram(body: _Body, paint: Color, second: Color) -> None:
    length, high = body.length, 3.35
    profile: Profile = (
        (-0.5, 0.25, "body"), (-0.5, 1.3, "glass"), (-0.47, high, "roof"), (0.47, high, "glass"),
        (0.5, 1.3, "body"), (0.5, 0.25, "dark"),
    )  # fmt: skip
    point = body.frame.point
    for spot in (-0.12,) if length < 20 else (-0.12, 0.2):
        arm = [point(spot * length, 0.0, high), point((spot + 0.06) * length, 0.0, high + 0.8)]
        arm.append(point(spot * length, 0.0, high + 1.5))
        body.brush.line(arm, 0.1 * body.frame.scale, (60.0, 60.0, 64.0))
    bar = [point(-0.12 * length, -0.8, high + 1.5), point(-0.12 * length, 0.8, high + 1.5)]
    body.brush.line(bar, 0.1 * body.frame.scale, (60.0, 60.0, 64.0))
    body.solid(profile, paint)
    body.panel(-length / 2, length / 2, 0.3, 1.1, second)
    sections = 3
    for section in range(sections):
        start = (-0.48 + section * 0.96 / sections) * length
        span = 0.96 / sections * length
        for index in range(4):
            a = start + 0.3 + index * (span - 0.5) / 4
            if index == 1:
                body.panel(a, a + (span - 0.5) / 4 - 0.2, 0.35, 2.75, shade(body.glass, 0.8))
            else:
                body.panel(a, a + (span - 0.5) / 4 - 0.25, 1.4, 2.7, body.glass)
        if section:
            body.panel(start - 0.25, start + 0.25, 0.3, high, (50.0, 50.0, 54.0))
    for end in (length / 2, -length / 2):
        body.plate(end, -0.5, 0.5, high - 0.4, high - 0.12, (245.0, 180.0, 50.0))
        body.plate(end, -1.0, 1.0, 0.25, 0.55, (45.0, 45.0, 48.0))
        body.plate(end, -1.0, 1.0, 0.95, 1.15, second)
    body.lights(0.68, 0.9)
