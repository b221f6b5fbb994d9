"""Visible label maps: blended over the image, with a legend of the classes."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from clouds_deploy.data.images import Pixels
from clouds_deploy.labels import CITYSCAPES, IGNORE, LabelSet

OPACITY = 0.55
_STRIP = 1 << 20
"""Pixels that are blended together, so that large images need little more than the overlay itself."""
_WIDE, _LONGEST = 640, 8192
"""Pixels of width that small images are enlarged to, and of the longest side that this may lead to."""
_ROOM = 1 << 24
"""Most pixels of an overlay with a margin beside it."""
_EDGE = 0.55
_INK, _PAPER, _QUIET = (24, 26, 31), (255, 255, 255), (110, 116, 128)


def overlay(
    image: Pixels, labels: Pixels, opacity: float = OPACITY, classes: LabelSet = CITYSCAPES
) -> Pixels:
    """Blends a label map over its image and draws the borders between classes.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids; ignored pixels show the image.
        opacity: Share of the colour, 0..1.
        classes: The label set, for its colours.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    colors = classes.palette()
    blend = np.empty(image.shape, np.uint8)
    step = max(1, _STRIP // image.shape[1])
    for row in range(0, len(image), step):
        above = max(0, row - 1)  # for the borders to the row before
        part = _blend(image[above : row + step], labels[above : row + step], opacity, colors)
        blend[row : row + step] = part[row - above :]
    return blend


def _blend(image: Pixels, labels: Pixels, opacity: float, colors: Pixels) -> Pixels:
    share = round(opacity * 256)  # whole 256ths: integer arithmetic is fast enough for videos
    added = colors.astype(np.uint16) * share + 128
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
    counts, flat = np.zeros(256, np.int64), labels.ravel()
    for start in range(0, flat.size, _STRIP):  # `bincount` makes 8 bytes of each pixel
        counts += np.bincount(flat[start : start + _STRIP], minlength=256)
    order = np.argsort(-counts[:IGNORE], kind="stable")
    return [(int(c), float(counts[c]) / labels.size) for c in order if counts[c]]


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "<0.1%"


def legend(labels: Pixels, width: int, classes: LabelSet = CITYSCAPES) -> Pixels:
    """Strip with the colours and names of a label map's classes.

    Args:
        labels: (H, W) uint8 train ids.
        width: Of the strip, in pixels.
        classes: The label set, for names and colours.

    Returns:
        (h, width, 3) uint8 RGB; the height depends on the number of classes.
    """
    size = int(np.clip(width / 48, 11, 48))
    font = ImageFont.load_default(size)
    gap, box = round(size * 0.6), size
    known = classes.classes
    items = [(c, known[c].name, _percent(share)) for c, share in shares(labels) if c < len(known)]
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
        draw.rectangle((x, y + 0.3 * size, x + box, y + 1.3 * size), fill=known[index].color)
        text = x + box + gap * 0.7
        draw.text((text, y + 0.12 * size), name, fill=_INK, font=font)
        draw.text((text + font.getlength(name + "  "), y + 0.12 * size), share, fill=_QUIET, font=font)
    return np.asarray(strip)


def overlay_with_legend(
    image: Pixels, labels: Pixels, opacity: float = OPACITY, classes: LabelSet = CITYSCAPES
) -> Pixels:
    """Overlay with the legend below; small images are enlarged to make it readable.

    Returns:
        (h, w, 3) uint8 RGB, 640 pixels wide at least, unless the image is very long and thin.
    """
    picture = overlay(image, labels, opacity, classes)
    height, width = labels.shape
    times = max(1, min(-(-_WIDE // width), _LONGEST // max(height, width)))
    if times > 1:
        picture = picture.repeat(times, 0).repeat(times, 1)
    height, width = picture.shape[:2]
    if width < _WIDE and height * _WIDE <= _ROOM:  # thin: a margin makes room for the legend
        picture = np.pad(picture, ((0, 0), (0, _WIDE - width), (0, 0)), constant_values=255)
    below = legend(labels, picture.shape[1], classes)
    whole = np.empty((len(picture) + len(below), *picture.shape[1:]), np.uint8)
    whole[: len(picture)], whole[len(picture) :] = picture, below
    return whole


def before_and_after(image: Pixels, before: Pixels, after: Pixels, classes: LabelSet = CITYSCAPES) -> Pixels:
    """Shows an image with its labels before and after refinement side by side, with a legend of both.

    Small images are enlarged, large ones subsampled, to about 640 pixels of width each.

    Args:
        image: (H, W, 3) uint8 RGB.
        before: (H, W) uint8 train ids.
        after: The same shape; pixels without a label show the image.
        classes: The label set.

    Returns:
        (h, w, 3) uint8 RGB: the image, before and after from left to right.
    """
    height, width = image.shape[:2]
    times = max(1, min(-(-480 // width), _LONGEST // max(height, width)))
    step = max(1, width // _WIDE, height // _LONGEST)
    parts = [
        np.ascontiguousarray(part[::step, ::step]).repeat(times, 0).repeat(times, 1)
        for part in (image, *(overlay(image, labels, OPACITY, classes) for labels in (before, after)))
    ]
    gap = np.full((parts[0].shape[0], 8, 3), 255, np.uint8)
    strip = np.hstack([parts[0], gap, parts[1], gap, parts[2]])
    return np.vstack([strip, legend(np.stack((before, after)), strip.shape[1], classes)])
