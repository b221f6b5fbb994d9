"""Visible label maps: blended over the image, with a legend of the classes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clouds_deploy.data.images import Pixels
from clouds_deploy.labels import CLASSES, IGNORE, NUM_CLASSES, palette

OPACITY = 0.55
_EDGE = 0.55
_INK, _PAPER, _QUIET = (24, 26, 31), (255, 255, 255), (110, 116, 128)


def overlay(image: Pixels, labels: Pixels, opacity: float = OPACITY) -> Pixels:
    """Blends a label map over its image and draws the borders between classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids; ignored pixels show the image.
        opacity: Share of the colour, 0..1.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    share = round(opacity * 256)  # whole 256ths: integer arithmetic is fast enough for videos
    added = palette().astype(np.uint16) * share + 128
    kept = np.full(256, 256 - share, np.uint16)
    added[IGNORE], kept[IGNORE] = 128, 256
    blend = ((image * kept[labels][..., None] + added[labels]) >> 8).astype(np.uint8)
    edge = np.zeros(labels.shape, bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    blend[edge] = (blend[edge] * _EDGE).astype(np.uint8)
    return blend


def shares(labels: Pixels) -> list[tuple[int, float]]:
    """Classes of a label map with their shares, largest first.

    Returns:
        (train id, share of all pixels 0..1) of each class that occurs.
    """
    counts = np.bincount(labels.ravel(), minlength=256)
    order = np.argsort(-counts[:NUM_CLASSES], kind="stable")
    return [(int(c), float(counts[c]) / labels.size) for c in order if counts[c]]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def legend(labels: Pixels, width: int) -> Pixels:
    """Strip with the colours and names of a label map's classes.

    Args:
        labels: (H, W) uint8 train ids.
        width: Of the strip, in pixels.

    Returns:
        (h, width, 3) uint8 RGB; the height depends on the number of classes.
    """
    size = int(np.clip(width / 48, 11, 48))
    font = ImageFont.load_default(size)
    gap, box = round(size * 0.6), size
    items = [(c, CLASSES[c].name, _percent(share)) for c, share in shares(labels)]
    column = max(
        (box + gap + font.getlength(f"{name}  {share}") + 2 * gap for _, name, share in items), default=width
    )
    columns = max(1, int((width - gap) // column))
    rows = -(-len(items) // columns)
    line = round(size * 1.6)
    strip = Image.new("RGB", (width, max(rows, 1) * line + gap), _PAPER)
    draw = ImageDraw.Draw(strip)
    for number, (index, name, share) in enumerate(items):
        x = gap + (number % columns) * column
        y = gap / 2 + (number // columns) * line
        draw.rectangle((x, y + 0.3 * size, x + box, y + 1.3 * size), fill=CLASSES[index].color)
        text = x + box + gap * 0.7
        draw.text((text, y + 0.12 * size), name, fill=_INK, font=font)
        draw.text((text + font.getlength(name + "  "), y + 0.12 * size), share, fill=_QUIET, font=font)
    return np.asarray(strip)


def overlay_with_legend(image: Pixels, labels: Pixels, opacity: float = OPACITY) -> Pixels:
    """Overlay with the legend below; small images are enlarged to make it readable.

    Returns:
        (h, w, 3) uint8 RGB, at least 640 pixels wide.
    """
    picture = Image.fromarray(overlay(image, labels, opacity))
    times = -(-640 // picture.width)
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    return np.vstack([np.asarray(picture), legend(labels, picture.width)])


def before_and_after(image: Pixels, before: Pixels, after: Pixels) -> Pixels:
    """Shows an image with its labels before and after refinement side by side, with a legend of both.

    Small images are enlarged, large ones subsampled, to about 640 pixels of width each.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: (H, W) uint8 train ids.
        after: The same shape; pixels without a label show the image.

    Returns:
        (h, w, 3) uint8 RGB: the image, before and after from left to right.
    """
    width = image.shape[1]
    times, step = max(1, -(-480 // width)), max(1, width // 640)
    parts = [
        np.ascontiguousarray(part[::step, ::step]).repeat(times, 0).repeat(times, 1)
        for part in (image, overlay(image, before), overlay(image, after))
    ]
    gap = np.full((parts[0].shape[0], 8, 3), 255, np.uint8)
    strip = np.hstack([parts[0], gap, parts[1], gap, parts[2]])
    return np.vstack([strip, legend(np.stack((before, after)), strip.shape[1])])
