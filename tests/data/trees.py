"""Small datasets on disk, made by the tests that read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from clouds_deploy.labels import CLASSES


def picture(seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def train_ids(seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 19, (height // 8, width // 8), dtype=np.uint8)
    labels = blocks.repeat(8, 0).repeat(8, 1)
    labels[:2] = 255
    return labels


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def cityscapes(root: Path, count: int = 3, ids: bool = False) -> Path:
    """A miniature of the official tree; `ids` writes labelIds instead of labelTrainIds."""
    table = np.zeros(256, np.uint8)
    for c in CLASSES:
        table[c.train_id] = c.cityscapes_id
    for split in ("train", "val"):
        for number in range(count):
            name = f"town_{number:06d}_000019"
            save(root / "leftImg8bit" / split / "town" / f"{name}_leftImg8bit.png", picture(number))
            labels = train_ids(number)
            suffix = "labelIds" if ids else "labelTrainIds"
            save(
                root / "gtFine" / split / "town" / f"{name}_gtFine_{suffix}.png",
                table[labels] if ids else labels,
            )
    return root


def folder(root: Path, count: int = 3, split: str = "") -> Path:
    """A miniature of the plain layout."""
    for number in range(count):
        save(root / split / "images" / f"a{number}.png", picture(number))
        save(root / split / "labels" / f"a{number}_labelTrainIds.png", train_ids(number))
    return root
