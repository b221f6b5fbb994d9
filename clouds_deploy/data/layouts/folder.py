"""The plain layout for one's own data: `images/` and `labels/` with the same stems.

Splits are folders of the usual names: `<split>/images` and `<split>/labels`, or `images/<split>` and
`labels/<split>`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clouds_deploy.data.images import IMAGE_SUFFIXES
from clouds_deploy.data.layouts.layout import TRAIN_IDS, Layout, Sample
from clouds_deploy.data.layouts.tree import (
    ONE_SET,
    encoding_by_name,
    images_inside,
    label_maps_inside,
    label_stem,
    subfolders,
)

WHOLE = "all"
"""Every image of a folder, whatever its split."""
_USUAL = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val"}
_USUAL |= {"test": "test", "testing": "test"}


def _parts(root: Path) -> dict[str, tuple[Path, Path]]:
    """Split -> folder of its images, and folder of its label maps; none where all is one set."""
    images, labels = root / "images", root / "labels"
    if not images.is_dir():
        inside = [name for name in subfolders(root) if (root / name / "images").is_dir()]
        return {_USUAL.get(n, n): (root / n / "images", root / n / "labels") for n in inside}
    names = subfolders(images)
    if not any(_USUAL.get(name) in ("train", "val") for name in names) or _plain_images(images):
        return {}
    below = (labels / names[0]).is_dir() or any((labels / name).is_dir() for name in names)
    return {_USUAL.get(n, n): (images / n, labels / n if below else labels) for n in names}


def _plain_images(folder: Path) -> bool:
    return folder.is_dir() and any(
        p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") for p in folder.iterdir()
    )


def folder_splits(root: Path) -> tuple[str, ...]:
    """Splits of a plain folder; see `Layout.list_splits`."""
    parts = _parts(root)
    if parts:
        return (*parts, WHOLE)
    return ONE_SET if (root / "images").is_dir() or _plain_images(root) else ()


def _pairs(root: Path, split: str) -> list[tuple[Path, Path]]:
    """Folders of images and of label maps that make up a split."""
    parts = _parts(root)
    if split in parts:
        return [parts[split]]
    return list(parts.values()) if parts else [(root / "images", root / "labels")]


def folder_labels(root: Path, split: str) -> list[Path]:
    """Label maps of a plain folder; see `Layout.list_labels`."""
    return [path for _, labels in _pairs(root, split) for path in label_maps_inside(labels)]


def folder_samples(root: Path, split: str) -> list[Sample]:
    """Samples of a plain folder; see `Layout.list_samples`."""
    pairs = _pairs(root, split)
    if len(pairs) > 1:  # one name may be in several splits
        return [
            replace(sample, name=f"{images.relative_to(root).as_posix()}/{sample.name}")
            for images, labels in pairs
            for sample in paired(images, labels)
        ]
    ((images, labels),) = pairs
    if not images.is_dir():  # images and nothing else
        return [
            Sample(p.relative_to(root).with_suffix("").as_posix(), p, None, labels / f"{p.stem}.png")
            for p in images_inside(root)
        ]
    return paired(images, labels)


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
        samples.append(Sample(name, image, maps.get(name), labels / f"{name}.png"))
    return samples


FOLDER = Layout(
    "folder",
    "images/ and labels/ (or <split>/images and <split>/labels, or images/<split> and labels/<split>), same "
    "stems, labels as train ids or Cityscapes' ids, or in a label set of one's own",
    folder_splits,
    folder_samples,
    folder_labels,
    encoding_by_name,
    by_content=True,
    any_classes=True,
)
