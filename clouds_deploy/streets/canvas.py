"""Canvas for picture, labels and instances at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds_deploy.labels import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clouds_deploy.streets.dice import Color
    from clouds_deploy.streets.geometry import Camera, Point
    from clouds_deploy.streets.weather import Weather

LABEL = {name: train_id for train_id, name in enumerate(NAMES)}
_BASE = 32


class Canvas:
    """The picture and, under it, one integer image that holds label and instance together.

    Weather changes the colours while painting (light, and haze by distance), not the finished picture: so
    lamps shine at night and distant things fade without a depth map.

    Args:
        height: Rows.
        width: Columns.
        camera: The projection.
        weather: Light and haze.
    """

    def __init__(self, height: int, width: int, camera: Camera, weather: Weather) -> None:
        self.height, self.width = height, width
        self.camera, self.weather = camera, weather
        self.image = Image.new("RGB", (width, height))
        self.codes = Image.new("I", (width, height), LABEL["sky"])
        self.draw = ImageDraw.Draw(self.image)
        self.draw_codes = ImageDraw.Draw(self.codes)
        self.lamps: list[tuple[float, float, float, Color, int]] = []
        self._instances = 0

    def brush(self, label: str, depth: float, *, instance: int = 0) -> Brush:
        """Brush for one class at one distance."""
        return Brush(self, LABEL[label], depth, instance)

    def fill_ground(self, label: str, color: Color) -> None:
        """Fills everything below the horizon."""
        horizon = self.camera.horizon
        below = [(0.0, horizon), (self.width, horizon), (self.width, self.height), (0.0, self.height)]
        self.brush(label, 0.0).polygon(below, color)

    def new_instance(self) -> int:
        """Next free instance id."""
        self._instances += 1
        return self._instances

    def replace_image(self, pixels: npt.NDArray[np.uint8]) -> None:
        """Replaces the picture by a processed one, (H, W, 3) uint8."""
        self.image = Image.fromarray(pixels)
        self.draw = ImageDraw.Draw(self.image)

    def labels_and_instances(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Labels and instances from the integer image.

        Returns:
            (H, W) uint8 train ids and (H, W) int32 instance ids.
        """
        codes = np.asarray(self.codes, np.int32)
        return (codes & (_BASE - 1)).astype(np.uint8), codes >> 5


class Brush:
    """Brush for one object: its class, its instance id and the haze in front of it."""

    def __init__(self, canvas: Canvas, label: int, depth: float, instance: int) -> None:
        self._canvas = canvas
        self._draw = canvas.draw
        self._draw_codes = canvas.draw_codes
        self.code = instance * _BASE + label
        weather = canvas.weather
        self._haze = 1.0 - math.exp(-weather.haze * depth)
        clear = 1.0 - self._haze
        red, green, blue = weather.light
        self._gain = (red * clear, green * clear, blue * clear)
        fog = weather.haze_color
        self._add = (fog[0] * self._haze, fog[1] * self._haze, fog[2] * self._haze)

    def ink(self, color: Color, *, glow: bool = False) -> tuple[int, int, int]:
        """Colour under light and haze; glowing things are not dimmed by the night."""
        add = self._add
        if glow:
            clear = 1.0 - self._haze
            mixed = (color[0] * clear + add[0], color[1] * clear + add[1], color[2] * clear + add[2])
        else:
            gain = self._gain
            mixed = (color[0] * gain[0] + add[0], color[1] * gain[1] + add[1], color[2] * gain[2] + add[2])
        return (min(255, int(mixed[0])), min(255, int(mixed[1])), min(255, int(mixed[2])))

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """Fills an outline in the picture and in the labels."""
        self._draw.polygon(points, self.ink(color))
        self._draw_codes.polygon(points, self.code)

    def detail(self, points: Sequence[Point], color: Color, *, glow: bool = False) -> None:
        """Fills an outline in the picture only."""
        self._draw.polygon(points, self.ink(color, glow=glow))

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """Fills an upright rectangle, at least one pixel wide."""
        corners = (left, min(top, bottom), max(left, right), max(top, bottom))
        self._draw.rectangle(corners, self.ink(color))
        self._draw_codes.rectangle(corners, self.code)

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
        """Fills an upright rectangle in the picture only.

        `depth` is its distance in metres where it isn't the brush's; only a recording needs it.
        """
        self._draw.rectangle(
            (left, min(top, bottom), max(left, right), max(top, bottom)), self.ink(color, glow=glow)
        )

    def disc(self, center: Point, radius: float, color: Color, *, stretch: float = 1.0) -> None:
        """Fills an ellipse; `stretch` is its width divided by its height."""
        wide = radius * stretch
        box = (center[0] - wide, center[1] - radius, center[0] + wide, center[1] + radius)
        self._draw.ellipse(box, self.ink(color))
        self._draw_codes.ellipse(box, self.code)

    def detail_disc(
        self, center: Point, radius: float, color: Color, *, stretch: float = 1.0, glow: bool = False
    ) -> None:
        """Fills an ellipse in the picture only."""
        wide = radius * stretch
        box = (center[0] - wide, center[1] - radius, center[0] + wide, center[1] + radius)
        self._draw.ellipse(box, self.ink(color, glow=glow))

    def line(self, points: Sequence[Point], thickness: float, color: Color) -> None:
        """Draws a stroke in picture and labels, at least one pixel thick."""
        thick = max(1, round(thickness))
        self._draw.line(points, self.ink(color), thick)
        self._draw_codes.line(points, self.code, thick)

    def detail_line(self, points: Sequence[Point], thickness: float, color: Color) -> None:
        """Draws a stroke in the picture only."""
        self._draw.line(points, self.ink(color), max(1, round(thickness)))

    def lamp(self, center: Point, radius: float, color: Color) -> None:
        """Registers a light that shines at night unless it is hidden later."""
        if self._canvas.weather.night > 0.0:
            self._canvas.lamps.append((center[0], center[1], radius, color, self.code))
