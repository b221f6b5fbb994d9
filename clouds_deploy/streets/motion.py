"""Movement of the camera and of things along a street, each a function of the frame's number alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from clouds_deploy.streets.people import Cycle, Person
from clouds_deploy.streets.vehicles import Vehicle

if TYPE_CHECKING:
    from clouds_deploy.streets.dice import Dice
    from clouds_deploy.streets.layout import Layout
    from clouds_deploy.streets.traffic import Thing
    from clouds_deploy.streets.weather import Weather

RATE = 17.0
"""Frames per second, as of Cityscapes' sequences."""
_REACH = 30.0
"""How far the camera drives at most, in metres: what is ahead is filled to about 50 metres."""
_GAP = 4.0
"""Metres that are kept free before a crossing."""

Way = Callable[[int], float]
"""Frame -> metres gone since frame 0."""


class Pose(NamedTuple):
    """A place on the ground and a direction: metres, and radians from straight ahead to the right."""

    x: float
    z: float
    heading: float


def glide(speed: float, room: float) -> Way:
    """Returns a way that starts at a speed (metres a second) and comes to rest when the room is used up."""
    if room <= 0.1:
        return _rest
    return lambda frame: room * (1.0 - math.exp(-speed * frame / RATE / room))


def _rest(frame: int) -> float:
    return 0.0


@dataclass(frozen=True)
class Mover:
    """How one thing moves.

    Attributes:
        thing: As it is in frame 0.
        ahead: How far along the street, in metres.
        across: How far to the right, in metres.
        bend: The street's, see `Camera`.
    """

    thing: Thing
    ahead: Way
    across: Way
    bend: float

    @property
    def moves(self) -> bool:
        """Whether it moves at all."""
        return self.ahead is not _rest or self.across is not _rest

    def at(self, frame: int) -> tuple[float, float]:
        """Its place in the street's own coordinates, x and z, without the bend."""
        thing = self.thing
        if not isinstance(thing, (Vehicle, Cycle, Person)):
            raise TypeError(f"{thing} has no place of its own")
        return thing.x + self.across(frame), thing.z + self.ahead(frame)

    def pose(self, frame: int) -> Pose:
        """Its place and direction in space; flat figures don't turn."""
        x, z = self.at(frame)
        turn = 0.0
        if isinstance(self.thing, Vehicle):
            turn = self.thing.heading + math.atan(2.0 * self.bend * z)
        return Pose(x + self.bend * z * z, z, turn)


class Traffic:
    """The ways of all things in a street, without collisions at crossings and in lanes.

    Args:
        layout: The street.
        things: What is in it.
        dice: Random numbers.
    """

    def __init__(self, layout: Layout, things: Sequence[Thing], dice: Dice) -> None:
        self.layout = layout
        self._vehicles = [thing for thing in things if isinstance(thing, Vehicle)]
        self._speed = dice.between(5.0, 11.0)
        self._walk = dice.fork()
        self._ways: dict[tuple[float, bool], Way] = {}
        self._sides = (glide(dice.between(4.0, 8.0), 40.0), glide(dice.between(4.0, 8.0), 40.0))
        self._other = dice.fork()
        room = _REACH
        if layout.crossing:
            room = min(room, layout.crossing[0] - _GAP)
        ahead = [thing for thing in self._vehicles if abs(thing.x) < 1.6 and thing.z > 0.0]
        if any(abs(math.sin(one.heading)) > 0.25 for one in ahead if one.z < 30.0):
            room = min(room, min(one.z - one.length / 2 for one in ahead) - _GAP)
        self._room = max(room, 0.5)
        self.camera_way = glide(self._speed, self._room)
        self._bend = layout.bend

    def camera(self, frame: int) -> Pose:
        """The camera's pose; it follows the lane."""
        z = self.camera_way(frame)
        return Pose(self._bend * z * z, z, math.atan(2.0 * self._bend * z))

    def mover(self, thing: Thing, own: Dice) -> Mover:
        """How a thing moves.

        Args:
            thing: One of the street's.
            own: The random numbers that it is painted with; left as they are.
        """
        ahead: Way = _rest
        across: Way = _rest
        if isinstance(thing, Vehicle):
            ahead, across = self._drive(thing)
        elif isinstance(thing, Cycle) and thing.ridden:
            if abs(thing.turn) >= 0.35:
                across = _signed(glide(3.0, 8.0), math.copysign(1.0, thing.turn))
            else:
                ahead = _signed(glide(4.0, 25.0), 1.0 if thing.x > -1.0 else -1.0)
        elif isinstance(thing, Person):
            left, right = self.layout.sides[0].kerb, self.layout.sides[1].kerb
            speed = self._walk.between(0.9, 1.6)
            sign = 1.0 if self._walk.chance(0.5) else -1.0
            if not thing.side:
                ahead = _signed(glide(speed, 15.0), sign)
            elif left < thing.x < right:
                facing = thing.facing(own.copy())
                room = right - thing.x if facing > 0.0 else thing.x - left
                across = _signed(glide(speed, room), facing)
        return Mover(thing, ahead, across, self._bend)

    def _drive(self, vehicle: Vehicle) -> tuple[Way, Way]:
        layout, sine = self.layout, math.sin(vehicle.heading)
        if abs(sine) > 0.8:
            return _rest, _signed(self._sides[sine > 0.0], math.copysign(1.0, sine))
        parked = any(lane.parking and abs(lane.x - vehicle.x) < 0.5 for lane in layout.lanes)
        if parked or abs(sine) > 0.25:
            return _rest, _rest
        away = math.cos(vehicle.heading) > 0.0
        if away and abs(vehicle.x) < 1.6:
            return self.camera_way, _rest
        lane = min((lane.x for lane in layout.lanes if not lane.parking), key=lambda x: abs(x - vehicle.x))
        if layout.tram is not None and abs(layout.tram - vehicle.x) < 0.5:
            lane = layout.tram
        beyond = bool(layout.crossing) and vehicle.z > sum(layout.crossing or ()) / 2
        key = (lane, beyond)
        if key not in self._ways:
            self._ways[key] = _signed(
                glide(self._other.between(5.0, 12.0), self._free(lane, away, beyond)), 1.0 if away else -1.0
            )
        return self._ways[key], _rest

    def _free(self, lane: float, away: bool, beyond: bool) -> float:
        """Metres that the vehicles of a lane may go before the first of them reaches the crossing."""
        crossing = self.layout.crossing
        if not crossing or away == beyond:
            return 60.0
        room = 60.0
        for one in self._vehicles:
            if abs(one.x - lane) < 0.5 and (one.z > sum(crossing) / 2) == beyond:
                end = crossing[0] - (one.z + one.length / 2) if away else one.z - one.length / 2 - crossing[1]
                room = min(room, end - 0.5)
        return room


def _signed(way: Way, sign: float) -> Way:
    return _rest if way is _rest else lambda frame: sign * way(frame)


def drift(weather: Weather, frame: int, phase: float) -> Weather:
    """Returns the weather of a frame: light and haze go up and down by 8 and 25 percent in half a minute.

    Args:
        weather: Of frame 0, but for the phase.
        frame: The frame's number.
        phase: Where in this the clip begins, 0..1.
    """
    turn = math.tau * (frame / (30.0 * RATE) + phase)
    bright, thick = 1.0 + 0.08 * math.sin(turn), 1.0 + 0.25 * math.sin(0.7 * turn)
    red, green, blue = (level * bright for level in weather.light)
    top, low, haze = (
        (color[0] * bright, color[1] * bright, color[2] * bright)
        for color in (*weather.sky, weather.haze_color)
    )
    return replace(
        weather, light=(red, green, blue), sky=(top, low), haze=weather.haze * thick, haze_color=haze
    )
