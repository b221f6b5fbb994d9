"""One synthetic, labelled street scene, a function of domain, seed and number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from clouds_deploy import seeds
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.streets import appearance, ground, layout, nature, traffic, weather
from clouds_deploy.streets.buildings import Plot
from clouds_deploy.streets.canvas import Canvas
from clouds_deploy.streets.dice import Dice
from clouds_deploy.streets.domains import TABLE
from clouds_deploy.streets.furniture import Post
from clouds_deploy.streets.geometry import Camera
from clouds_deploy.streets.people import Cycle, Person
from clouds_deploy.streets.vehicles import Vehicle

if TYPE_CHECKING:
    from clouds_deploy.streets.domains import Domain

DOMAINS = ("game", "imagined", "photo")
"""Labelled source, unlabelled substitute for diffusion images, unseen target."""


@dataclass(frozen=True)
class Scene:
    """A picture and its ground truth.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids 0..18.
        instances: (H, W) int32; 0 where there is no instance, otherwise the number of one person, rider
            or vehicle of the scene. Numbers of hidden things are missing.
    """

    image: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]


def render(domain: str, seed: int, index: int, height: int = 128, width: int = 256) -> Scene:
    """Renders a scene.

    The same arguments give the same bytes in every process; another size gives the same street.

    Args:
        domain: One of `DOMAINS`.
        seed: Of the data set; not negative.
        index: Of the scene in it; not negative.
        height: Rows; useful are 64 to 1024.
        width: Columns; best twice the rows.

    Returns:
        The scene.

    Raises:
        CloudsError: The domain is unknown.
    """
    if domain not in TABLE:
        raise CloudsError(f"unknown street domain `{domain}`", nearest(domain, DOMAINS))
    settings = TABLE[domain]
    chance, grain = seeds.generators(2, seed, index, settings.code)
    dice = Dice.seeded(chance)
    canvas = _draw(domain, settings, dice, height, width)
    labels, instances = canvas.labels_and_instances()
    image = appearance.finish(canvas, labels, settings, dice, grain)
    return Scene(image, labels, instances)


def _draw(domain: str, settings: Domain, dice: Dice, height: int, width: int) -> Canvas:
    air = weather.sample(dice.weighted(settings.weathers), dice, vivid=domain == "game")
    tram = dice.chance(settings.vehicles["train"])
    street = layout.sample(dice.weighted(settings.layouts), dice.fork(), tram=tram)
    camera = Camera(
        focal=height * dice.between(1.1, 1.35),
        center=width * dice.between(0.44, 0.56),
        horizon=height * dice.between(0.4, 0.48),
        height=dice.between(*settings.camera_height),
        bend=street.bend,
    )
    canvas = Canvas(height, width, camera, air)
    palette = settings.palette
    ground.draw_sky(canvas, dice.fork())
    ground.draw_ground(canvas, street, palette, dice.fork(), settings.clutter)
    nature.draw_backdrop(canvas, palette, dice.fork(), country=street.country)
    things = traffic.populate(street, settings, dice.fork(), tram=tram)
    _shadows(canvas, things)
    things += traffic.plots(street, settings, dice.fork(), air.sun)
    inside = dice.fork()
    turns = [(thing, inside.fork()) for thing in things]
    turns.sort(key=lambda turn: turn[0].depth, reverse=True)
    for thing, own in turns:
        thing.draw(canvas, palette, own)
    return canvas


def _shadows(canvas: Canvas, things: list[traffic.Thing]) -> None:
    """Darkens the ground under and beside things, before they are painted."""
    air = canvas.weather
    mask = Image.new("L", (canvas.width, canvas.height), 255)
    draw = ImageDraw.Draw(mask)
    under, beside = int(255 * 0.45), int(255 * (1.0 - air.shadow))
    point = canvas.camera.point
    for thing in things:
        if isinstance(thing, (Post, Plot)):
            continue
        left, right, near, far, high = thing.footprint
        if far < 2.0:
            continue
        if air.sun and air.shadow > 0.25:
            reach = air.sun * high
            a, b = (left + reach, right) if reach < 0.0 else (left, right + reach)
            draw.polygon([point(a, 0, near), point(b, 0, near), point(b, 0, far), point(a, 0, far)], beside)
    for thing in things:
        if isinstance(thing, (Vehicle, Cycle, Person)):
            left, right, near, far, _ = thing.footprint
            corners = [(left, near), (right, near), (right, far), (left, far)]
            draw.polygon([point(x, 0.0, max(z, 1.0)) for x, z in corners], under)
    amount = np.asarray(mask)[:, :, None]
    pixels = np.asarray(canvas.image).astype(np.uint16) * amount // 255
    canvas.replace_image(pixels.astype(np.uint8))
