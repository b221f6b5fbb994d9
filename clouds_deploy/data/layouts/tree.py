"""What the trees of datasets have in common: splits that are folders, encodings that are suffixes."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.images import IMAGE_SUFFIXES, files_inside
from clouds_deploy.data.layouts.encodings import Encoding, cityscapes_ids, train_ids

ONE_SET = ("all", "train", "val")
"""The splits of a release that is one set: it serves as any of them."""

TRAIN_IDS, LABEL_IDS = "_labelTrainIds", "_labelIds"
_NOT_LABELS = ("_color", "_labelColor", "_instanceIds", "_instanceTrainIds")


def label_stem(path: Path) -> str:
    """Give a label file's path without suffix and encoding: the same for every encoding of one map."""
    return str(path.with_name(path.stem.removesuffix(TRAIN_IDS).removesuffix(LABEL_IDS)))


def encoding_by_name(path: Path) -> Encoding:
    """Tell Cityscapes' ids, by the suffix `_labelIds`, from train ids."""
    return cityscapes_ids() if path.stem.endswith(LABEL_IDS) else train_ids()


def subfolders(folder: Path) -> list[str]:
    """Lists the names of the folders in a folder, sorted, but hidden ones; none where it is missing."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def images_inside(folder: Path) -> list[Path]:
    """Lists the images in a folder, recursively, sorted; none where it is missing."""
    return files_inside(folder, IMAGE_SUFFIXES) if folder.is_dir() else []


def label_maps_inside(folder: Path) -> list[Path]:
    """Lists the label maps in a folder as `images_inside`, coloured ones and instances left aside."""
    return [p for p in images_inside(folder) if not p.stem.endswith(_NOT_LABELS)]


def first_file(candidates: list[Path]) -> Path | None:
    """Give the first path that is a file, None when none is."""
    return next((path for path in candidates if path.is_file()), None)


def root_or_below(root: Path, below: str, marker: str) -> Path:
    """Finds where a release begins: in the folder given, or in the one its archive makes there.

    Args:
        root: The folder given.
        below: The folder that the archive makes.
        marker: What lies where the release begins.
    """
    return root if (root / marker).is_dir() or not (root / below / marker).is_dir() else root / below
