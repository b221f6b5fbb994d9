"""Making images of prompts: in shards, resumable, each image a function of the run's seed and its number.

The state is the files. An image that is there, whole, is done; one that came out blank or was refused too
often has a record under `failed/`. Batches are cut in the same places however often a run is killed, so that
what comes out is the same.
"""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from clouds_deploy import seeds
from clouds_deploy.artifacts import MANIFEST, atomic_path, read_json, write_json, write_manifest
from clouds_deploy.console import progress, say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.painter import Painter

T = TypeVar("T")
KIND = "generated"
IMAGES, FAILED, SETTINGS, SHEET = "images", "failed", "settings.json", "contact_sheet.png"
_FLAT = 4.0
"""Standard deviation of the grey values, of 255, under which an image shows nothing."""
_SHOWN = 24


def image_seed(seed: int, index: int, attempt: int) -> int:
    """Give the number that an image's noise derives from: a function of the run's seed and its number."""
    return seeds.derive(seed, index, attempt)


def fault(image: Image.Image | None) -> str | None:
    """Say what is wrong with an image, if anything: refused by the safety checker, or blank."""
    if image is None:
        return "refused by the safety checker"
    grey = np.asarray(image.convert("L"), np.float32)
    return "blank" if float(grey.std()) < _FLAT else None


def generate_images(
    painter: Painter,
    prompts: Sequence[str],
    out: Path,
    settings: Mapping[str, Any],
    *,
    count: int,
    seed: int,
    batch: int,
    shard: tuple[int, int] = (0, 1),
    attempts: int = 3,
) -> dict[str, Any]:
    """Make this shard's images, and close the folder when it is the last one.

    Args:
        painter: What makes them.
        prompts: Image number i shows prompt i modulo their number.
        out: The folder; made, or gone on with when its settings are the same.
        settings: All that the images depend on.
        count: Images of all shards.
        seed: See `image_seed`.
        batch: Images made at once.
        shard: This shard's number, from 0, and how many there are.
        attempts: Draws of an image before it is given up.

    Returns:
        out, made (now), images and failed (in the folder), wanted, complete, seconds.

    Raises:
        CloudsError: The folder holds images of other settings, or something else.
    """
    _claim(out, settings)
    number, shards = shard
    mine = list(range(number, count, shards))
    begun, made = time.perf_counter(), 0
    with progress("images", len(mine), "image") as advance:
        for at in range(0, len(mine), batch):
            made += draw_batch(painter, prompts, mine[at : at + batch], out, settings, seed, attempts)
            advance(min(at + batch, len(mine)))
    images = [i for i in range(count) if _path(out, i).is_file()]
    failed = [i for i in range(count) if (out / FAILED / f"{i:06d}.json").is_file()]
    complete = len(images) + len(failed) == count
    seconds = time.perf_counter() - begun
    if complete and (made or not (out / MANIFEST).is_file()):
        _close(out, settings, images, failed)
    if failed:
        warn(f"{len(failed)} images came out blank or were refused {attempts} times: see {out / FAILED}")
    return {
        "out": str(out), "made": made, "images": len(images), "failed": len(failed), "wanted": count,
        "complete": complete, "seconds": seconds, "model": settings["model"],
    }  # fmt: skip


def draw_batch(
    painter: Painter,
    prompts: Sequence[str],
    group: Sequence[int],
    out: Path,
    settings: Mapping[str, Any],
    seed: int,
    attempts: int,
) -> int:
    """Write those images of a batch that are not there, or a record of why one was given up.

    Returns:
        How many images were made.
    """
    todo = [i for i in group if not _done(out, i)]
    made = 0
    for index, image, attempt, why in _draw(painter, prompts, group, todo, seed, attempts):
        prompt = prompts[index % len(prompts)]
        if image is None:
            record = {"index": index, "prompt": prompt, "fault": why}
            write_json(out / FAILED / f"{index:06d}.json", record)
            continue
        _write(_path(out, index), image, {"prompt": prompt, "index": index, "attempt": attempt, **settings})
        made += 1
    return made


def _draw(
    painter: Painter,
    prompts: Sequence[str],
    group: Sequence[int],
    todo: Sequence[int],
    seed: int,
    attempts: int,
) -> Iterator[tuple[int, Image.Image | None, int, str]]:
    """Draw a batch, then again those of it that failed; the whole batch, for what is missing of it."""
    left = list(group) if todo else []
    why: dict[int, str] = {}
    for attempt in range(attempts):
        if not left:
            return
        found = painter.paint(
            [prompts[i % len(prompts)] for i in left], [image_seed(seed, i, attempt) for i in left]
        )
        for index, image in zip(left, found, strict=True):
            wrong = fault(image)
            if wrong:
                why[index] = wrong
                continue
            why.pop(index, None)
            if index in todo:
                yield index, image, attempt, ""
        left = [i for i in left if i in why]
    for index in left:
        if index in todo:
            yield index, None, attempts, why[index]


def _claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder, or see that it is of the same settings."""
    path = out / SETTINGS
    wanted = json.loads(json.dumps(settings))
    if not path.is_file():
        if out.is_dir() and any(
            p.name not in (IMAGES, FAILED, SETTINGS) for p in out.iterdir() if p.name[0] != "."
        ):
            raise CloudsError(f"{out} holds something else", "choose another --out")
        write_json(path, wanted)
    found = read_json(path)
    if found != wanted:
        other = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
        raise CloudsError(
            f"the images in {out} were made with other settings ({', '.join(other)})",
            "go on with the same command, or choose another --out",
        )
    for name in (IMAGES, FAILED):
        (out / name).mkdir(parents=True, exist_ok=True)


def _path(out: Path, index: int) -> Path:
    return out / IMAGES / f"{index:06d}.png"


def _done(out: Path, index: int) -> bool:
    """Say whether an image need not be drawn: written whole, or given up."""
    return _path(out, index).is_file() or (out / FAILED / f"{index:06d}.json").is_file()


def _write(path: Path, image: Image.Image, facts: Mapping[str, Any]) -> None:
    """Write an image that says how it was made."""
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("clouds_deploy", json.dumps(facts, ensure_ascii=False))
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", pnginfo=notes)


def _close(out: Path, settings: Mapping[str, Any], images: Sequence[int], failed: Sequence[int]) -> None:
    """Write sheet and manifest: the shard that is done last does. What killed ones began to write goes."""
    for begun in (*(out / IMAGES).glob(".*.tmp-*"), *(out / FAILED).glob(".*.tmp-*")):
        begun.unlink(missing_ok=True)
    if images:
        with atomic_path(out / SHEET) as temporary:
            contact_sheet([_path(out, i) for i in shown(images)]).save(temporary, "PNG")
    write_manifest(out, KIND, **{**settings, "images": len(images), "failed": list(failed)})
    say(f"{len(images)} images in {out / IMAGES}, a few of them on {out / SHEET}")


def shown(images: Sequence[T]) -> list[T]:
    """Choose the images for the contact sheet: evenly spaced ones."""
    return list(images)[:: max(1, len(images) // _SHOWN)][:_SHOWN]


def contact_sheet(paths: Sequence[Path], columns: int = 4, width: int = 320) -> Image.Image:
    """Show images side by side, each with its prompt, or with what else it is."""
    tiles = []
    for path in paths:
        with Image.open(path) as image:
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
