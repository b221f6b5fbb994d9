"""Generated images: what is wrong with one, files that say how they were made, contact sheets."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from clouds_deploy.artifacts import atomic_path

T = TypeVar("T")
IMAGES, FAILED, SHEET = "images", "failed", "contact_sheet.png"
_FLAT = 4.0
"""Standard deviation of the grey values, of 255, under which an image shows nothing."""
_SHOWN = 24
"""Images on a contact sheet."""


def fault(image: Image.Image | None) -> str | None:
    """What is wrong with an image, if anything: refused by the safety checker, or blank."""
    if image is None:
        return "refused by the safety checker"
    grey = np.asarray(image.convert("L"), np.float32)
    return "blank" if float(grey.std()) < _FLAT else None


def write_image(path: Path, image: Image.Image, facts: Mapping[str, Any]) -> None:
    """Writes a PNG with the facts of how it was made in its metadata."""
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("clouds_deploy", json.dumps(facts, ensure_ascii=False))
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", pnginfo=notes)


def shown(images: Sequence[T]) -> list[T]:
    """The images for a contact sheet: evenly spaced ones."""
    return list(images)[:: max(1, len(images) // _SHOWN)][:_SHOWN]


def contact_sheet(paths: Sequence[Path], columns: int = 4, width: int = 320) -> Image.Image:
    """Shows images side by side, each with its prompt, or with a note on what else it is."""
    tiles = []
    for path in paths:
        with Image.open(path, formats=("PNG",)) as image:
            facts = json.loads(image.info.get("clouds_deploy", "{}"))
            rows = round(width * image.height / image.width)
            tile = Image.new("RGB", (width, rows + 32), (250, 250, 248))
            tile.paste(image.convert("RGB").resize((width, rows), Image.Resampling.LANCZOS))
        text = textwrap.wrap(str(facts.get("note") or facts.get("prompt", "")), width // 6)[:2]
        with suppress(UnicodeEncodeError):
            ImageDraw.Draw(tile).multiline_text((2, rows + 3), "\n".join(text), fill=(40, 40, 40), spacing=2)
        tiles.append(tile)
    high = max(tile.height for tile in tiles)
    lines = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB", (min(columns, len(tiles)) * (width + 8) + 8, lines * (high + 8) + 8), (250, 250, 248)
    )
    for at, tile in enumerate(tiles):
        sheet.paste(tile, (8 + at % columns * (width + 8), 8 + at // columns * (high + 8)))
    return sheet
