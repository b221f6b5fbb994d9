"""The plain layout for one's own data: `images/` and `labels/` with the same stems."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.images import IMAGE_SUFFIXES
from clouds_deploy.data.layouts.layout import Layout, Sample
from clouds_deploy.data.layouts.tree import (
    ONE_SET,
    TRAIN_IDS,
    encoding_by_name,
    images_inside,
    label_maps_inside,
    label_stem,
    subfolders,
)


def folder_splits(root: Path) -> tuple[str, ...]:
    """Splits of a plain folder; see `Layout.list_splits`."""
    if (root / "images").is_dir():
        return ONE_SET
    inside = tuple(name for name in subfolders(root) if (root / name / "images").is_dir())
    if inside:
        return inside
    plain = root.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in root.iterdir() if p.is_file())
    return ONE_SET if plain else ()


def _base(root: Path, split: str) -> Path:
    return root if (root / "images").is_dir() or not (root / split / "images").is_dir() else root / split


def folder_labels(root: Path, split: str) -> list[Path]:
    """Label maps of a plain folder; see `Layout.list_labels`."""
    return label_maps_inside(_base(root, split) / "labels")


def folder_samples(root: Path, split: str) -> list[Sample]:
    """Samples of a plain folder; see `Layout.list_samples`."""
    base = _base(root, split)
    if not (base / "images").is_dir():  # images and nothing else
        return [Sample(p.relative_to(base).with_suffix("").as_posix(), p, None) for p in images_inside(base)]
    return paired(base / "images", base / "labels")


def paired(images: Path, labels: Path) -> list[Sample]:
    """Pairs images and label maps that have the same path below two folders.

    Args:
        images: The images' folder.
        labels: The label maps' folder; of a map in two encodings, train ids are preferred.

    Returns:
        A sample per image, named by its path in the folder.
    """
    maps = {}
    for path in sorted(label_maps_inside(labels), key=lambda p: p.stem.endswith(TRAIN_IDS)):
        maps[Path(label_stem(path)).relative_to(labels).as_posix()] = path
    samples = []
    for image in images_inside(images):
        name = image.relative_to(images).with_suffix("").as_posix()
        samples.append(Sample(name, image, maps.get(name)))
    return samples


FOLDER = Layout(
    "folder",
    "images/ and labels/ (or <split>/images and <split>/labels), same stems, labels as train ids",
    folder_splits,
    folder_samples,
    folder_labels,
    encoding_by_name,
)
