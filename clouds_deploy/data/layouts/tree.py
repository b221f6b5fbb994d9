"""Common parts of the datasets' trees: splits as folders, encodings as suffixes."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.images import IMAGE_SUFFIXES, files_inside
from clouds_deploy.data.layouts.encodings import Encoding, cityscapes_ids, train_ids
from clouds_deploy.data.layouts.layout import LABEL_IDS, TRAIN_IDS

ONE_SET = ("all", "train", "val")
"""Splits of a release that is not divided: each of them is the whole."""

_NOT_LABELS = ("_color", "_labelColor", "_instanceIds", "_instanceTrainIds")


def label_stem(path: Path) -> str:
    """Path of a label file without suffix and encoding: the same for every encoding of one map."""
    return str(path.with_name(path.stem.removesuffix(TRAIN_IDS).removesuffix(LABEL_IDS)))


def encoding_by_name(path: Path) -> Encoding:
    """Cityscapes' ids for the suffix `_labelIds`, otherwise train ids."""
    return cityscapes_ids() if path.stem.endswith(LABEL_IDS) else train_ids()


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder, without hidden ones; none if it is missing."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def images_inside(folder: Path) -> list[Path]:
    """Sorted images in a folder and below; none if it is missing."""
    return files_inside(folder, IMAGE_SUFFIXES) if folder.is_dir() else []


def label_maps_inside(folder: Path) -> list[Path]:
    """Sorted label maps in a folder and below, without coloured maps and instance maps."""
    return [p for p in images_inside(folder) if not p.stem.endswith(_NOT_LABELS)]


def root_or_below(root: Path, below: str, marker: str) -> Path:
    """Root of a release: the given folder, or the one that its archive creates there.

    Args:
        root: The folder given.
        below: The folder that the archive creates.
        marker: A folder in the root of the release.
    """
    return root if (root / marker).is_dir() or not (root / below / marker).is_dir() else root / below
