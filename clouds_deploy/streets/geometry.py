"""Projection from the street into the picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

Point = tuple[float, float]
"""Picture coordinates (column, row) in pixels."""

_NEAREST = 0.7


@dataclass(frozen=True)
class Camera:
    """A pinhole camera on a car, in metres: x to the right, y up from the ground, z ahead.

    A bend shifts every point sideways with the square of its distance, so the whole street curves, with all
    that stands on it.

    Attributes:
        focal: Focal length in pixels.
        center: Column of the vanishing point.
        horizon: Row of the horizon.
        height: Of the camera above the ground, in metres.
        bend: Sideways shift in metres per metre squared.
    """

    focal: float
    center: float
    horizon: float
    height: float
    bend: float

    def point(self, x: float, y: float, z: float) -> Point:
        """Projection of a point; points behind the camera are moved in front of it."""
        z = max(z, _NEAREST)
        scale = self.focal / z
        return (
            self.center + (x + self.bend * z * z) * scale,
            self.horizon + (self.height - y) * scale,
        )

    def scale(self, z: float) -> float:
        """Pixels per metre at a distance."""
        return self.focal / max(z, _NEAREST)

    def strip(self, left: float, right: float, near: float, far: float) -> list[Point]:
        """Outline of a strip of ground along the street, following the bend."""
        if self.bend == 0.0:
            depths = [near, far]
        else:
            depths = [near]
            while depths[-1] < far:
                depths.append(min(far, depths[-1] * 1.35 + 0.5))
        outline = [self.point(left, 0.0, z) for z in depths]
        outline.extend(self.point(right, 0.0, z) for z in reversed(depths))
        return outline


class Frame:
    """Axes of an object on the ground: length, width and height.

    Args:
        camera: The camera.
        x: Sideways position of its centre in metres.
        z: Distance of its centre in metres.
        heading: Radians; 0 drives away from the camera, pi towards it, pi/2 to the right.
    """

    def __init__(self, camera: Camera, x: float, z: float, heading: float) -> None:
        self._camera = camera
        self._x, self._z = x, z
        self._sin, self._cos = math.sin(heading), math.cos(heading)
        across, ahead = -(x + camera.bend * z * z), -z
        self.eye_length = across * self._sin + ahead * self._cos
        """Position of the camera along the object's length."""
        self.eye_width = across * self._cos - ahead * self._sin
        """Position of the camera across the object's width."""
        self.eye_height = camera.height
        self.scale = camera.scale(z)

    def point(self, length: float, width: float, height: float) -> Point:
        """Projection of a point on the object's axes, in metres from its centre on the ground."""
        return self._camera.point(
            self._x + length * self._sin + width * self._cos,
            height,
            self._z + length * self._cos - width * self._sin,
        )
