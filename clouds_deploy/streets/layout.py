"""The cross-section of a street: positions of its parts."""

from __future__ import annotations

from dataclasses import dataclass

from clouds_deploy.streets.dice import Dice

LANE = 3.3
"""Metres."""


@dataclass(frozen=True)
class Lane:
    """A lane for driving or parked vehicles.

    Attributes:
        x: Its middle, in metres from the camera.
        away: True when it leads away from the camera.
        parking: True when the vehicles in it are parked.
    """

    x: float
    away: bool
    parking: bool = False


@dataclass(frozen=True)
class Side:
    """One side of the street, from the kerb outwards.

    Attributes:
        sign: -1 left, +1 right.
        kerb: Edge of the road, x in metres (with its sign).
        verge: Width of the grass strip between kerb and pavement.
        pavement: Width of the pavement.
        border: Front of the plots (buildings, walls, fences), x in metres (with its sign).
    """

    sign: int
    kerb: float
    verge: float
    pavement: float
    border: float


@dataclass(frozen=True)
class Layout:
    """A street.

    Attributes:
        name: Its kind.
        lanes: Lanes of vehicles.
        tram: Middle of the tram track, or None.
        sides: Left and right.
        bend: Curvature, see `Camera`.
        crossing: Near and far edge of a crossing street (z, metres), or None.
        far: Distance of the street's visible end, in metres.
        country: True outside towns.
    """

    name: str
    lanes: tuple[Lane, ...]
    tram: float | None
    sides: tuple[Side, Side]
    bend: float
    crossing: tuple[float, float] | None
    far: float
    country: bool


def sample(name: str, dice: Dice, *, tram: bool) -> Layout:
    """Random street of a kind.

    Args:
        name: avenue, narrow, junction, curve, country or square.
        dice: Random numbers.
        tram: Whether a tram track runs along it.

    Returns:
        The street.
    """
    narrow = name in ("narrow", "country")
    same_way = 0 if narrow else dice.whole(0, 1)
    opposite = 1 if narrow else dice.whole(1, 2)
    lanes = [Lane(0.0, away=True)]
    right = LANE / 2
    for _ in range(same_way):
        lanes.append(Lane(right + LANE / 2, away=True))
        right += LANE
    left = -LANE / 2
    track = None
    if tram:
        track = left - LANE / 2
        left -= LANE
    for _ in range(opposite):
        lanes.append(Lane(left - LANE / 2, away=False))
        left -= LANE
    if name != "country":
        if dice.chance(0.7):
            lanes.append(Lane(right + 1.2, away=True, parking=True))
            right += 2.3
        if dice.chance(0.7):
            lanes.append(Lane(left - 1.2, away=False, parking=True))
            left -= 2.3
    sides = (_side(name, -1, left, dice), _side(name, 1, right, dice))
    bend = 0.0
    if name in ("curve", "country"):
        bend = dice.between(0.003, 0.012) * (1.0 if dice.chance(0.5) else -1.0)
    crossing = None
    if name == "junction" or (name == "square" and dice.chance(0.5)):
        near = dice.between(11.0, 19.0)
        crossing = (near, near + dice.between(6.5, 10.0))
    far = 140.0 if name == "country" else dice.between(70.0, 120.0)
    return Layout(name, tuple(lanes), track, sides, bend, crossing, far, name == "country")


def _side(name: str, sign: int, kerb: float, dice: Dice) -> Side:
    verge = dice.between(0.9, 2.2) if dice.chance(0.35) else 0.0
    pavement = dice.between(2.0, 4.0)
    if name == "narrow":
        pavement = dice.between(1.3, 2.2)
        verge = 0.0
    elif name == "square":
        pavement = dice.between(6.0, 12.0)
    elif name == "country":
        verge = dice.between(1.0, 2.5)
        pavement = dice.between(1.2, 2.0) if dice.chance(0.6) else 0.0
    return Side(sign, kerb, verge, pavement, kerb + sign * (verge + pavement + 0.15))
