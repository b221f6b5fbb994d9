"""Images and the labels that belong to them, on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.artifacts import sha256
from clouds_deploy.data.images import read_image, read_label_ids
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import CONFIDENCES, LABELS, list_items
from clouds_deploy.inference.sam import Picture
from clouds_deploy.labels import UNKNOWN_ID, train_id_table
from clouds_deploy.refinement.components import Labels
from clouds_deploy.refinement.prompts import Floats

ENDINGS = (".png", "_labelTrainIds.png")
"""What follows an image's name in its label map's: from `predict`, and as Cityscapes and the authors do."""


@dataclass(frozen=True)
class Pair:
    """An image and its labels.

    Attributes:
        name: The image's path in its folder without suffix, as `predict` calls its labels.
        image: The image's file.
        labels: The label map's file; None where there is none.
        confidence: The confidences' file; None where none are asked for.
    """

    name: str
    image: Path
    labels: Path | None
    confidence: Path | None

    def hashes(self) -> dict[str, str]:
        """Give the sha256 of every file that there is."""
        files = {"image": self.image, "labels": self.labels, "confidence": self.confidence}
        return {kind: sha256(path) for kind, path in files.items() if path is not None}


@dataclass(frozen=True)
class Loaded:
    """A pair in memory.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32 in 0..1, or None.
    """

    image: Picture
    labels: Labels
    confidence: Floats | None


def find_pairs(images: Path, labels: Path, confidences: Path | None = None) -> list[Pair]:
    """List a folder's images with their labels.

    Args:
        images: Folder of images; videos in it are passed over.
        labels: Folder of label PNGs of the same names, or what `predict` made.
        confidences: Folder of 8-bit grey PNGs of the same names, 255 where the teacher is certain; None takes
            those that `predict` made with the labels, if it did.

    Returns:
        The pairs by name; an image without labels is among them.

    Raises:
        CloudsError: A folder is not there, holds no image, or not one label map that belongs to an image.
    """
    for folder in (images, labels, *([confidences] if confidences else [])):
        if not folder.is_dir():
            raise CloudsError(f"there is no folder {folder}", "check the path")
    root = labels / LABELS if (labels / LABELS).is_dir() else labels
    if confidences is None and (labels / CONFIDENCES).is_dir():
        confidences = labels / CONFIDENCES
    pairs = [
        Pair(
            item.name,
            item.path,
            next((p for e in ENDINGS if (p := root / f"{item.name}{e}").is_file()), None),
            confidences / f"{item.name}.png" if confidences else None,
        )
        for item in list_items([images])
        if not item.video
    ]
    if not any(pair.labels for pair in pairs):
        wanted = f"{pairs[0].name}.png" if pairs else "name.png"
        raise CloudsError(
            f"{root} holds no label map of any of the {len(pairs)} images in {images}",
            f"label maps are PNGs called like their image, such as {wanted}; `predict` makes them",
        )
    return pairs


def load_pair(pair: Pair) -> Loaded:
    """Read a pair.

    Raises:
        CloudsError: A file is missing or damaged, the sizes differ, or an id is no train id.
    """
    if pair.labels is None:
        raise CloudsError(f"{pair.image} has no label map", f"make {pair.name}.png, or take the image away")
    image, labels = read_image(pair.image), read_label_ids(pair.labels)
    _check_size(pair.labels, labels.shape, image.shape[:2], pair.image)
    wrong = np.unique(labels[train_id_table()[labels] == UNKNOWN_ID])
    if wrong.size:
        named = ", ".join(str(i) for i in wrong[:5]) + (", ..." if wrong.size > 5 else "")
        raise CloudsError(
            f"{pair.labels} holds ids that are no train ids: {named}",
            "label maps hold 0 to 18, and 255 where there is no label; translate other ids first",
        )
    if pair.confidence is None:
        return Loaded(image, labels, None)
    grey = read_label_ids(pair.confidence)
    _check_size(pair.confidence, grey.shape, image.shape[:2], pair.image)
    return Loaded(image, labels, np.divide(grey, 255, dtype=np.float32))


def _check_size(path: Path, size: tuple[int, ...], wanted: tuple[int, ...], image: Path) -> None:
    if size != wanted:
        raise CloudsError(
            f"{path} is {size[1]} x {size[0]} pixels, its image {image.name} {wanted[1]} x {wanted[0]}",
            "make labels of the image's own size",
        )
