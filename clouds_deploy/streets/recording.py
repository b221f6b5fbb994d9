"""Surfaces of a street in metres: what the painter paints, recorded once and seen from anywhere.

The painter of still images works in the picture's plane. Here it paints on a canvas that keeps, instead of
pixels, the plane polygon in space that each stroke stands for. What the painter computed with the camera
(`Camera.point`) knows its place. A flat figure (a person, a tree, a sign) stands upright at its distance, and
flat things on the ground lie on it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from clouds_deploy.streets.canvas import LABEL, Brush, Canvas
from clouds_deploy.streets.dice import Color
from clouds_deploy.streets.geometry import Camera, Point
from clouds_deploy.streets.weather import Weather

Place = tuple[float, float, float]
"""A point in metres: x to the right, y up from the ground, z ahead."""

SKYLINE = 600.0
"""Distance in metres of the woods and roofs at the horizon."""
CLOUDS = 3000.0
"""Distance in metres of the clouds."""
_EDGE = 3000.0
"""How far the ground reaches, in metres."""
_CORNERS = 16
"""Corners of the polygon that stands for an ellipse."""


class Spot(tuple[float, float]):
    """A point of the picture that knows its place in space."""

    place: Place

    @classmethod
    def of(cls, point: Point, place: Place) -> Spot:
        """A point of the picture, and its place."""
        made = cls(point)
        made.place = place
        return made


class RecordingCamera(Camera):
    """A camera whose points know their places."""

    def point(self, x: float, y: float, z: float) -> Point:
        """See `Camera.point`; returns a `Spot`."""
        return Spot.of(super().point(x, y, z), (x + self.bend * z * z, y, z))


@dataclass(frozen=True)
class Face:
    """A plane polygon of one colour.

    Attributes:
        corners: Its places.
        color: RGB before light and haze.
        glow: Whether the night doesn't dim it.
        code: Instance times 32 plus train id.
        air: Distance in metres whose haze lies before it; NaN is its own distance.
        detail: Whether it lies on another face of its thing (a window, a door).
    """

    corners: tuple[Place, ...]
    color: Color
    glow: bool
    code: int
    air: float
    detail: bool


@dataclass(frozen=True)
class Lamp:
    """A light that shines at night.

    Attributes:
        place: Where it is.
        radius: Metres.
        color: RGB.
        code: Of the face that carries it.
    """

    place: Place
    radius: float
    color: Color
    code: int


class RecordingCanvas(Canvas):
    """A canvas that keeps surfaces instead of pixels.

    Args:
        height: Rows of the imagined picture: how small a thing may be before the painter leaves it out.
        width: Columns; things outside are left out.
        camera: The projection.
        weather: Light and haze.
        instances: The instance id before the first one that is given.
        backdrop: Distance in metres of everything that is painted; None is where the painter says.
    """

    def __init__(
        self,
        height: int,
        width: int,
        camera: RecordingCamera,
        weather: Weather,
        instances: int = 0,
        backdrop: float | None = None,
    ) -> None:
        super().__init__(1, 1, camera, weather)
        self.height, self.width, self.backdrop = height, width, backdrop
        self.faces: list[Face] = []
        self.lights: list[Lamp] = []
        self._instances = instances

    def brush(self, label: str, depth: float, *, instance: int = 0) -> RecordingBrush:
        """See `Canvas.brush`."""
        return RecordingBrush(self, LABEL[label], depth, instance)

    def fill_ground(self, label: str, color: Color) -> None:
        """See `Canvas.fill_ground`."""
        corners = tuple((x, 0.0, z) for x, z in ((-1, -1), (1, -1), (1, 1), (-1, 1)))
        far = tuple((x * _EDGE, y, z * _EDGE) for x, y, z in corners)
        self.faces.append(Face(far, color, False, LABEL[label], math.nan, False))


class RecordingBrush(Brush):
    """See `Brush`; it keeps faces."""

    def __init__(self, canvas: RecordingCanvas, label: int, depth: float, instance: int) -> None:
        super().__init__(canvas, label, depth, instance)
        self.canvas, self.camera = canvas, canvas.camera
        self.depth, self.air = depth, math.nan
        if canvas.backdrop is not None:
            self.depth, self.air = canvas.backdrop, depth

    def _place(self, point: Point, depth: float | None = None) -> Place:
        """The place of a point of the picture: known, on the ground, or at the brush's distance."""
        if isinstance(point, Spot):
            return point.place
        camera = self.camera
        z = self.depth if depth is None else depth
        if z == 0.0:
            z = camera.focal * camera.height / max(point[1] - camera.horizon, 1e-3)
        x = (point[0] - camera.center) * z / camera.focal
        return (x, camera.height - (point[1] - camera.horizon) * z / camera.focal, z)

    def _lay(
        self,
        points: Sequence[Point],
        color: Color,
        *,
        own: bool,
        glow: bool = False,
        depth: float | None = None,
    ) -> None:
        corners = tuple(self._place(point, depth) for point in points)
        self._keep(corners, color, own=own, glow=glow)

    def _keep(self, corners: tuple[Place, ...], color: Color, *, own: bool, glow: bool = False) -> None:
        self.canvas.faces.append(Face(corners, color, glow, self.code, self.air, not own))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """See `Brush.polygon`."""
        self._lay(points, color, own=True)

    def detail(self, points: Sequence[Point], color: Color, *, glow: bool = False) -> None:
        """See `Brush.detail`."""
        self._lay(points, color, own=False, glow=glow)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """See `Brush.box`."""
        self._lay(_corners(left, top, right, bottom), color, own=True)

    def detail_box(
        self,
        left: float,
        top: float,
        right: float,
        bottom: float,
        color: Color,
        *,
        glow: bool = False,
        depth: float | None = None,
    ) -> None:
        """See `Brush.detail_box`."""
        self._lay(_corners(left, top, right, bottom), color, own=False, glow=glow, depth=depth)

    def disc(self, center: Point, radius: float, color: Color, *, stretch: float = 1.0) -> None:
        """See `Brush.disc`."""
        self._lay(_ellipse(center, radius, stretch), color, own=True)

    def detail_disc(
        self, center: Point, radius: float, color: Color, *, stretch: float = 1.0, glow: bool = False
    ) -> None:
        """See `Brush.detail_disc`."""
        self._lay(_ellipse(center, radius, stretch), color, own=False, glow=glow)

    def line(self, points: Sequence[Point], thickness: float, color: Color) -> None:
        """See `Brush.line`."""
        self._stroke(points, thickness, color, own=True)

    def detail_line(self, points: Sequence[Point], thickness: float, color: Color) -> None:
        """See `Brush.detail_line`."""
        self._stroke(points, thickness, color, own=False)

    def _stroke(self, points: Sequence[Point], thickness: float, color: Color, *, own: bool) -> None:
        half = max(1.0, thickness) / 2
        for a, b in pairwise(points):
            dx, dy = b[0] - a[0], b[1] - a[1]
            size = math.hypot(dx, dy) or 1.0
            ox, oy = -dy / size * half, dx / size * half
            corners = [self._beside(a, ox, oy), self._beside(b, ox, oy)]
            corners += [self._beside(b, -ox, -oy), self._beside(a, -ox, -oy)]
            self._keep(tuple(corners), color, own=own)

    def _beside(self, point: Point, right: float, down: float) -> Place:
        """The place some pixels beside a point, upright at its distance or on the ground."""
        moved = (point[0] + right, point[1] + down)
        if isinstance(point, Spot) and self.depth != 0.0:
            return self._place(moved, max(point.place[2], 0.1))
        return self._place(moved)

    def lamp(self, center: Point, radius: float, color: Color) -> None:
        """See `Brush.lamp`."""
        place = self._place(center)
        size = radius * max(place[2], 0.1) / self.camera.focal
        self.canvas.lights.append(Lamp(place, size, color, self.code))


def _corners(left: float, top: float, right: float, bottom: float) -> list[Point]:
    high, low = min(top, bottom), max(top, bottom)
    right = max(left, right)
    return [(left, high), (right, high), (right, low), (left, low)]


def _ellipse(center: Point, radius: float, stretch: float) -> list[Point]:
    turns = [corner * math.tau / _CORNERS for corner in range(_CORNERS)]
    wide = radius * stretch
    return [(center[0] + math.cos(t) * wide, center[1] + math.sin(t) * radius) for t in turns]


def pack(faces: Sequence[Face]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Corners of faces in one array.

    Returns:
        (V, 3) float32 places, and (F + 1,) int64: face i has the corners from its number to the next one.
    """
    starts = np.zeros(len(faces) + 1, np.int64)
    np.cumsum([len(face.corners) for face in faces], out=starts[1:])
    places = np.array([place for face in faces for place in face.corners], np.float32)
    return places.reshape(-1, 3), starts
