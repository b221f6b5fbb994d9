"""SAMs that need no model: one that sees flat colours as things, and folders of pictures for it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.data.images import write_png
from clouds_deploy.inference.sam import Embedded

SIDE = 64


class ColourSam:
    """Answers with the region of one colour that most foreground points lie on.

    Its three proposals are that region, the region with its surroundings, and everything; it rates the
    first best. Images are at most 64 pixels wide and high.

    Args:
        seconds: How long a call lasts, for tests that kill.
    """

    size = SIDE
    name = "colours"

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.embedded: list[int] = []
        self.prompted: list[int] = []

    def embed(self, images: Sequence[Any]) -> Embedded:
        time.sleep(self.seconds)
        self.embedded.append(len(images))
        features = np.full((len(images), 1, SIDE, SIDE), -1, np.float32)
        for feature, image in zip(features, images, strict=True):
            codes = image.astype(np.int64) @ np.array([1, 256, 65536])
            feature[0, : image.shape[0], : image.shape[1]] = codes
        return Embedded(features, tuple(image.shape[:2] for image in images))

    def prompt(self, embedded: Embedded, image_index: Any, points: Any, labels: Any) -> tuple[Any, Any]:
        time.sleep(self.seconds)
        self.prompted.append(len(image_index))
        masks = np.full((len(image_index), 3, SIDE, SIDE), -1, np.float32)
        for mask, image, places, kinds in zip(masks, image_index, points, labels, strict=True):
            codes = embedded.features[image, 0]
            inside = places[kinds == 1].astype(int)
            found, counts = np.unique(codes[inside[:, 1], inside[:, 0]], return_counts=True)
            own = codes == found[counts.argmax()]
            mask[0][own] = 1
            mask[1][own] = 1
            mask[1][1:][own[:-1]] = 1
            mask[2][:] = 1
        return masks, np.tile(np.array([0.9, 0.8, 0.3], np.float32), (len(masks), 1))

    def masks(self, low_res: Any, size: tuple[int, int]) -> Any:
        return low_res[:, : size[0], : size[1]] > 0

    def describe(self) -> dict[str, Any]:
        return {"sam": self.name, "image_size": self.size, "device": "cpu"}


def scene(seed: int, height: int = SIDE, width: int = SIDE) -> tuple[Any, Any]:
    """Draw road, sky and a few blocks of one colour each, and a teacher's rough labels of them.

    Returns:
        (H, W, 3) uint8 image and (H, W) uint8 labels, whose borders are off by up to three pixels.
    """
    random = np.random.default_rng(seed)
    labels = np.full((height, width), 10, np.uint8)
    labels[height // 2 :] = 0
    truth = labels.copy()
    for label in (2, 13, 8):
        h, w = random.integers(12, 20, 2)
        top, left = random.integers(4, height - h - 4), random.integers(4, width - w - 4)
        truth[top : top + h, left : left + w] = label
        shift = random.integers(-3, 4, 2)
        labels[top + shift[0] : top + h + shift[0], left + shift[1] : left + w + shift[1]] = label
    colours = random.integers(0, 256, (256, 3))
    return colours[truth].astype(np.uint8), labels


def folder(root: Path, count: int, height: int = SIDE, width: int = SIDE) -> tuple[Path, Path]:
    """Write scenes: `images/000.png`, ... and `labels/000.png`, ..."""
    for i in range(count):
        image, labels = scene(i, height, width)
        write_png(root / "images" / f"{i:03d}.png", image)
        write_png(root / "labels" / f"{i:03d}.png", labels)
    return root / "images", root / "labels"


def spoil(root: Path) -> dict[str, str]:
    """Add one broken example of everything that can be wrong; its name and a word of its fault."""
    image, labels = scene(99)
    images, maps = root / "images", root / "labels"
    write_png(images / "z_missing.png", image)
    write_png(images / "z_size.png", image)
    write_png(maps / "z_size.png", labels[:-1])
    (images / "z_text.png").write_text("no image")
    write_png(maps / "z_text.png", labels)
    write_png(images / "z_cut.png", image)
    write_png(maps / "z_cut.png", labels)
    data = (maps / "z_cut.png").read_bytes()
    (maps / "z_cut.png").write_bytes(data[: len(data) // 2])
    write_png(images / "z_ids.png", image)
    write_png(maps / "z_ids.png", np.where(labels == 13, 33, labels).astype(np.uint8))
    write_png(images / "z_colour.png", image)
    write_png(maps / "z_colour.png", image)
    return {
        "z_missing.png": "has no label map",
        "z_size.png": "64 x 63 pixels",
        "z_text.png": "is not an image",
        "z_cut.png": "damaged",
        "z_ids.png": "no train ids: 33",
        "z_colour.png": "colour picture",
    }
