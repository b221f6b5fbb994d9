"""Contents of a street: vehicles, people, street furniture, and what lines it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from clouds_deploy.streets.buildings import Plot
from clouds_deploy.streets.furniture import Post
from clouds_deploy.streets.nature import Tree
from clouds_deploy.streets.people import Cycle, Person
from clouds_deploy.streets.vehicles import LENGTH, Vehicle

if TYPE_CHECKING:
    from clouds_deploy.streets.dice import Dice
    from clouds_deploy.streets.domains import Domain
    from clouds_deploy.streets.layout import Lane, Layout, Side

Thing = Vehicle | Cycle | Person | Post | Tree | Plot
"""Everything that is sorted by depth and painted."""

_FARTHEST = 48.0


class _Lanes:
    """Occupied stretches of the lanes."""

    def __init__(self, layout: Layout, dice: Dice) -> None:
        self.layout, self.dice = layout, dice
        self.taken: dict[float, list[tuple[float, float]]] = {}
        if layout.crossing:
            near, far = layout.crossing
            for lane in layout.lanes:
                self.taken[lane.x] = [(near - 3.5, far + 1.0)]

    def claim(self, lane: Lane, length: float, near: float, far: float) -> float | None:
        """Finds room for a length between two depths; returns its middle, or None."""
        spans = self.taken.setdefault(lane.x, [])
        for _ in range(4):
            start = self.dice.between(near, far)
            end = start + length
            if all(end + 0.9 < a or start - 0.9 > b for a, b in spans):
                spans.append((start, end))
                return (start + end) / 2
        return None


def populate(layout: Layout, domain: Domain, dice: Dice, *, tram: bool) -> list[Thing]:
    """Everything that stands or moves in a street.

    Args:
        layout: The street.
        domain: Decides how full it is.
        dice: Random numbers.
        tram: Whether there is a tram on its track.

    Returns:
        The things, in no order.
    """
    lanes = _Lanes(layout, dice.fork())
    things: list[Thing] = []
    if tram and layout.tram is not None:
        things.append(_tram(layout.tram, dice))
    for kind in ("bus", "truck"):
        if dice.chance(domain.vehicles[kind]):
            things += _large(kind, layout, lanes, dice)
    for kind in ("motorcycle", "bicycle"):
        if dice.chance(domain.vehicles[kind]):
            for _ in range(dice.whole(1, 2)):
                things.append(_cycle(kind, layout, lanes, dice))
    share = dice.between(*domain.traffic)
    for lane in layout.lanes:
        places = dice.whole(3, 6) if lane.parking else 4
        for _ in range(places):
            if dice.chance(share):
                things += _car(lane, lanes, dice)
    if layout.crossing:
        things += _crossing(layout.crossing, share, dice)
    things += _people(layout, domain, dice)
    for side in layout.sides:
        things += _furniture(side, layout, dice)
    return things


def _jitter(dice: Dice) -> float:
    return dice.between(-0.06, 0.06)


def _tram(x: float, dice: Dice) -> Vehicle:
    length = LENGTH["train"] * dice.between(0.75, 1.1)
    heading = math.pi if dice.chance(0.6) else 0.0
    return Vehicle("train", x, dice.between(8.0, 19.0) + length / 2, heading, length)


def _large(kind: str, layout: Layout, lanes: _Lanes, dice: Dice) -> list[Thing]:
    length = LENGTH[kind] * dice.between(0.8, 1.1)
    lane = dice.pick([lane for lane in layout.lanes if not lane.parking])
    middle = lanes.claim(lane, length, 7.0, 24.0)
    if middle is None:
        return []
    return [Vehicle(kind, lane.x, middle, (0.0 if lane.away else math.pi) + _jitter(dice), length)]


def _car(lane: Lane, lanes: _Lanes, dice: Dice) -> list[Thing]:
    length = LENGTH["car"] * dice.between(0.88, 1.12)
    middle = lanes.claim(lane, length, 3.5 if abs(lane.x) > 3.0 else 6.0, _FARTHEST)
    if middle is None:
        return []
    heading = 0.0 if lane.away else math.pi
    swing = dice.between(-0.7, 0.7) if not lane.parking and dice.chance(0.08) else _jitter(dice)
    return [Vehicle("car", lane.x + dice.between(-0.2, 0.2), middle, heading + swing, length)]


def _cycle(kind: str, layout: Layout, lanes: _Lanes, dice: Dice) -> Cycle:
    choice = dice.roll()
    side = dice.pick(layout.sides)
    if choice < 0.3:
        x = side.kerb + side.sign * (side.verge + dice.between(0.4, max(0.5, side.pavement - 0.3)))
        return Cycle(
            kind, x, dice.between(5.5, 14.0), dice.pick((-1.0, 1.0, 0.8, -0.8)), ridden=dice.chance(0.25)
        )
    if choice < 0.65:
        z = dice.between(6.0, 15.0)
        x = dice.between(layout.sides[0].kerb, layout.sides[1].kerb)
        return Cycle(kind, x, z, dice.pick((-1.0, 1.0, 0.75, -0.75)), ridden=True)
    lane = dice.pick([lane for lane in layout.lanes if not lane.parking])
    middle = lanes.claim(lane, 1.8, 5.5, 16.0)
    x = lane.x + dice.between(-0.9, 0.9) if middle is not None else side.kerb - side.sign * 0.6
    return Cycle(kind, x, middle or dice.between(6.0, 12.0), dice.pick((0.0, 0.0, 0.5, -0.5)), ridden=True)


def _crossing(span: tuple[float, float], share: float, dice: Dice) -> list[Thing]:
    things: list[Thing] = []
    near, far = span
    for z, heading in ((near + 1.9, math.pi / 2), (far - 1.9, -math.pi / 2)):
        x = dice.between(-20.0, -8.0)
        while x < 22.0:
            kind = dice.weighted({"car": 8.0, "truck": 1.0, "bus": 1.2, "bicycle": 1.2, "motorcycle": 1.2})
            if kind in ("bicycle", "motorcycle"):
                if dice.chance(share):
                    things.append(Cycle(kind, x, z, math.copysign(1.0, heading), ridden=True))
                x += dice.between(3.0, 9.0)
                continue
            length = LENGTH[kind] * dice.between(0.85, 1.1)
            if dice.chance(0.35 + 0.4 * share):
                things.append(Vehicle(kind, x + length / 2, z, heading + _jitter(dice), length))
            x += length + dice.between(2.0, 12.0)
    return things


def _people(layout: Layout, domain: Domain, dice: Dice) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(dice.whole(*domain.people)):
        height = dice.between(1.05, 1.4) if dice.chance(0.12) else dice.between(1.58, 1.88)
        z = 5.0 + 17.0 * dice.roll() ** 1.3
        if dice.chance(0.22):
            x = dice.between(layout.sides[0].kerb, layout.sides[1].kerb)
            z = max(z, 7.0)
        else:
            side = dice.pick(layout.sides)
            x = side.kerb + side.sign * (side.verge + 0.4 + dice.roll() * max(0.6, side.pavement - 0.6))
        things.append(Person(x, z, height, side=dice.chance(0.5)))
        if dice.chance(0.25):
            things.append(
                Person(x + dice.between(0.5, 0.75), z + 0.3, dice.between(1.5, 1.85), side=dice.chance(0.5))
            )
    return things


def _furniture(side: Side, layout: Layout, dice: Dice) -> list[Thing]:
    things: list[Thing] = []
    x, inward = side.kerb + side.sign * 0.45, -side.sign
    z = dice.between(5.0, 16.0)
    step = dice.between(12.0, 22.0)
    while z < 45.0:
        things.append(Post("lamp", x, z, inward))
        z += step
    if layout.crossing:
        ends = (layout.crossing[0] - 0.6, layout.crossing[1] + 0.8)
        things += [Post("light", x, z, inward) for z in ends if dice.chance(0.85)]
    elif dice.chance(0.4):
        things.append(Post("light", x, dice.between(8.0, 18.0), inward))
    things += [
        Post("sign", x + side.sign * dice.between(0.0, 0.5), dice.between(6.0, 20.0), inward)
        for _ in range(dice.whole(0, 3))
    ]
    if dice.chance(0.6 if side.verge or layout.country else 0.3):
        row = side.kerb + side.sign * (max(side.verge, 0.9) * 0.5 + (0.0 if not layout.country else 3.0))
        z = dice.between(6.0, 12.0)
        step = dice.between(5.0, 10.0)
        while z < 50.0:
            things.append(Tree(row, z, dice.between(4.0, 7.0)))
            z += step
    return things


def plots(layout: Layout, domain: Domain, dice: Dice, sun: float) -> list[Thing]:
    """Buildings, walls, fences and parks along both sides of a street.

    Args:
        layout: The street.
        domain: Decides how frequent each kind is.
        dice: Random numbers.
        sun: Direction of the light, see `Weather.sun`; fronts that face it are bright.

    Returns:
        The plots of both sides.
    """
    weights = dict(domain.plots)
    if layout.country:
        weights = {"building": 0.5, "wall": 1.2, "fence": 2.0, "park": 3.0}
    made: list[Thing] = []
    lit = 1 if sun > 0.0 else -1
    for side in layout.sides:
        z = dice.between(1.2, 4.0)
        while z < layout.far:
            kind = dice.weighted(weights)
            length = dice.between(7.0, 16.0) if kind == "building" else dice.between(6.0, 14.0)
            if z > 45.0:
                kind, length = ("park" if layout.country else "building"), length * 1.8
            end = z + length
            if layout.crossing:
                near, far = layout.crossing
                near, far = near - 2.5, far + 2.5
                if z < far and end > near:
                    if near - z > 4.0:
                        end = near
                    else:
                        z = far
                        continue
            made.append(Plot(kind, side.sign, side.border, z, end, side.sign == lit, domain.clutter))
            gap = dice.chance(0.15) if kind == "building" else False
            z = end + (dice.between(1.0, 4.0) if gap else 0.0)
    return made
