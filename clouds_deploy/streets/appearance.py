"""Finish of a painted scene: texture, rain and snow, lamps, style, and the camera's imperfections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from clouds_deploy.streets.canvas import LABEL

if TYPE_CHECKING:
    from clouds_deploy.streets.canvas import Canvas
    from clouds_deploy.streets.dice import Dice
    from clouds_deploy.streets.domains import Domain

Pixels = npt.NDArray[np.float32]
Labels = npt.NDArray[np.uint8]

_ROUGH = {
    "road": 0.8,
    "sidewalk": 0.8, "building": 1.0, "wall": 1.2, "fence": 0.9, "pole": 0.4, "traffic light": 0.3,
    "traffic sign": 0.3, "vegetation": 1.7, "terrain": 1.4, "sky": 0.25, "person": 0.6, "rider": 0.6,
    "car": 0.45, "truck": 0.5, "bus": 0.45, "train": 0.45, "motorcycle": 0.5, "bicycle": 0.5,
}  # fmt: skip
"""Roughness of the surface of each class, relative to the domain's texture strength."""

_GREY = np.array([0.299, 0.587, 0.114], np.float32)


def finish(
    canvas: Canvas, labels: Labels, domain: Domain, dice: Dice, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Gives a painted scene the look of its domain.

    Args:
        canvas: The scene.
        labels: (H, W) uint8 train ids, which decide how rough each surface is.
        domain: The ranges of every effect.
        dice: Random numbers, independent of the picture's size.
        generator: Random numbers for single pixels.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    strength = dice.between(*domain.texture)
    pixels = np.asarray(canvas.image, np.float32)
    if strength > 0.5:
        pixels = pixels + _texture(labels, strength, dice, generator)[:, :, None]
    return photograph(pixels, labels, canvas, domain, dice, generator)


def photograph(
    pixels: Pixels,
    labels: Labels,
    canvas: Canvas,
    domain: Domain,
    dice: Dice,
    generator: np.random.Generator,
    drops: Dice | None = None,
) -> npt.NDArray[np.uint8]:
    """Adds what is between the surfaces and the picture: reflections, rain, lamps, style, camera.

    Args:
        pixels: (H, W, 3) float32 grey levels of the surfaces; overwritten.
        labels: (H, W) uint8 train ids.
        canvas: Gives weather, horizon, size and lamps.
        domain: The ranges of every effect.
        dice: Random numbers that choose the effects; the same in all frames of a clip.
        generator: Random numbers for single pixels.
        drops: Random numbers for rain and snow; None goes on with `dice`.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    if canvas.weather.wet > 0.0:
        _reflect(pixels, labels, canvas, dice)
    if canvas.lamps:
        pixels = _shine(pixels, canvas)
    if canvas.weather.name in ("rain", "snow"):
        pixels = _fall(pixels, canvas, drops or dice.fork())
    pixels = _style(pixels, dice.weighted(domain.styles), dice.fork(), canvas)
    pixels = _grade(pixels, domain, dice)
    return _sense(pixels, domain, dice, generator)


def _noise(shape: tuple[int, int], cells: int, generator: np.random.Generator) -> Pixels:
    """Smooth noise, -1..1: an enlarged small random grid."""
    height, width = shape
    rows, columns = max(2, min(height, cells)), max(2, min(width, int(cells * width / height)))
    grid = Image.fromarray(generator.integers(0, 256, (rows, columns), np.uint8))
    large = grid.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(large, np.float32) * (2.0 / 255.0) - 1.0


def roughness(strength: float) -> Pixels:
    """Returns the strength of the texture by train id, (256,) grey levels, where it is `strength` at 1."""
    table = np.zeros(256, np.float32)
    for name, relative in _ROUGH.items():
        table[LABEL[name]] = relative * strength
    return table


def _texture(labels: Labels, strength: float, dice: Dice, generator: np.random.Generator) -> Pixels:
    """Grain and blotches according to the roughness of each class; (H, W) grey levels."""
    table = roughness(strength)
    fine = dice.between(0.4, 0.9)
    shape = (labels.shape[0], labels.shape[1])
    field = _noise(shape, 100, generator) * fine
    field += _noise(shape, 14, generator) * (1.3 - fine)
    return field * table[labels]


def _reflect(pixels: Pixels, labels: Labels, canvas: Canvas, dice: Dice) -> None:
    """Reflections on the wet ground, smeared downwards, added to `pixels` in place."""
    height = pixels.shape[0]
    start = max(1, min(height - 2, int(canvas.camera.horizon)))
    rows = np.arange(start, height)
    mirrored = np.clip(2 * start - rows + height // 10, 0, height - 1)
    small = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)[mirrored])
    smeared = small.resize((canvas.width // 2, max(2, (height - start) // 8)), Image.Resampling.BOX)
    mirror = np.asarray(smeared.resize(small.size, Image.Resampling.BILINEAR), np.float32)
    amount = np.where(
        labels[start:] <= LABEL["sidewalk"], 0.4 * canvas.weather.wet * dice.between(0.6, 1.0), 0.0
    )
    pixels[start:] += (mirror - pixels[start:]) * amount[:, :, None].astype(np.float32)


def _shine(pixels: Pixels, canvas: Canvas) -> Pixels:
    """Adds a halo around every lamp that is not hidden."""
    factor = max(1, canvas.height // 64)
    halo = Image.new("RGB", (canvas.width // factor, canvas.height // factor))
    draw = ImageDraw.Draw(halo)
    codes = canvas.codes
    for x, y, radius, color, code in canvas.lamps:
        if not (0 <= x < canvas.width and 0 <= y < canvas.height) or codes.getpixel((int(x), int(y))) != code:
            continue
        size = max(radius / factor, 0.8)
        level = 0.4 * canvas.weather.night
        ink = (int(color[0] * level), int(color[1] * level), int(color[2] * level))
        draw.ellipse((x / factor - size, y / factor - size, x / factor + size, y / factor + size), ink)
    halo = halo.filter(ImageFilter.GaussianBlur(canvas.height / factor * 0.025))
    wide = halo.filter(ImageFilter.GaussianBlur(canvas.height / factor * 0.08))
    both = ImageChops.add(halo, wide).resize((canvas.width, canvas.height), Image.Resampling.BILINEAR)
    return np.asarray(pixels + np.asarray(both, np.float32), np.float32)


def _fall(pixels: Pixels, canvas: Canvas, dice: Dice) -> Pixels:
    """Rain streaks or snow flakes."""
    layer = Image.new("L", (canvas.width, canvas.height))
    draw = ImageDraw.Draw(layer)
    unit = canvas.height / 128.0
    slant = dice.between(-0.3, 0.3)
    snow = canvas.weather.name == "snow"
    for _ in range(dice.whole(30, 90)):
        x, y = dice.roll() * canvas.width, dice.roll() * canvas.height
        if snow:
            size = dice.between(0.4, 1.3) * unit
            draw.ellipse((x - size, y - size, x + size, y + size), 170)
        else:
            long = dice.between(4.0, 11.0) * unit
            draw.line((x, y, x + slant * long, y + long), 75, max(1, round(0.6 * unit)))
    amount = np.asarray(layer, np.float32)[:, :, None] / 255.0
    return np.asarray(pixels + (225.0 - pixels) * amount, np.float32)


def _style(pixels: Pixels, style: str, dice: Dice, canvas: Canvas) -> Pixels:
    """Style of a painter or of a generative model."""
    if style == "contrasty":
        bent = np.clip(pixels, 0.0, 255.0) / 255.0
        return np.asarray(bent * bent * (3.0 - 2.0 * bent) * 255.0, np.float32)
    if style == "desaturated":
        grey = (pixels @ _GREY)[:, :, None]
        return np.asarray(grey + (pixels - grey) * dice.between(0.05, 0.5), np.float32)
    if style == "shifted":
        swap = np.eye(3, dtype=np.float32)
        for row in range(3):
            swap[row, (row + dice.whole(1, 2)) % 3] = dice.between(-0.2, 0.45)
        swap /= np.maximum(swap.sum(1, keepdims=True), 0.6)
        return np.asarray(pixels @ swap.T, np.float32)
    if style in ("painterly", "inked"):
        image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        if style == "inked":
            edges = image.convert("L").filter(ImageFilter.FIND_EDGES)
            dark = np.asarray(edges, np.float32)[:, :, None] * dice.between(0.4, 0.9)
            return np.asarray(pixels - dark, np.float32)
        unit = canvas.height / 128.0
        soft = image.filter(ImageFilter.BoxBlur(dice.between(0.6, 1.1) * unit))
        levels = dice.between(18.0, 40.0)
        return np.asarray(np.round(np.asarray(soft, np.float32) / levels) * levels, np.float32)
    return pixels


def _grade(pixels: Pixels, domain: Domain, dice: Dice) -> Pixels:
    """Saturation, contrast, colour cast, exposure and a lens's dark corners."""
    height, width = pixels.shape[:2]
    saturation, contrast = dice.between(*domain.saturation), dice.between(*domain.contrast)
    matrix = np.eye(3, dtype=np.float32) * saturation + (1.0 - saturation) * _GREY[None, :]
    gain = np.array([1.0, 1.0, 1.0], np.float32)
    cast = dice.between(*domain.cast)
    warm = dice.between(-1.0, 1.0)
    gain += cast * np.array([warm, dice.between(-0.4, 0.4), -warm], np.float32)
    matrix *= contrast * gain[:, None]
    pixels = pixels @ matrix.T + 118.0 * (1.0 - contrast)
    dark = dice.between(*domain.vignette)
    if dark > 0.0:
        rows = np.linspace(-1.0, 1.0, height, dtype=np.float32) ** 2
        columns = np.linspace(-1.0, 1.0, width, dtype=np.float32) ** 2
        pixels *= (1.0 - dark * 0.5 * (rows[:, None] + columns[None, :]))[:, :, None]
    return pixels


def _sense(
    pixels: Pixels, domain: Domain, dice: Dice, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Lens blur, exposure and sensor noise."""
    height, width = pixels.shape[:2]
    gamma, radius = dice.between(*domain.exposure), dice.between(*domain.blur) * height / 128.0
    ramp = (np.arange(256, dtype=np.float32) / 255.0) ** gamma * 255.0
    picture: npt.NDArray[np.uint8] = np.clip(pixels, 0.0, 255.0, out=pixels).astype(np.uint8)
    if radius > 0.15:
        picture = np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))
    table: npt.NDArray[np.uint8] = ramp.astype(np.uint8)
    picture = table[picture]
    sigma = dice.between(*domain.noise)
    if sigma < 0.4:
        return picture
    noisy: Pixels = generator.standard_normal((height // 2 + 1, width // 2 + 1, 3), np.float32)
    noisy = (noisy * (0.5 * sigma)).repeat(2, 0).repeat(2, 1)[:height, :width]
    noisy += (generator.standard_normal((height, width), np.float32) * sigma)[:, :, None]
    noisy += picture
    return np.clip(noisy, 0.0, 255.0, out=noisy).astype(np.uint8)
