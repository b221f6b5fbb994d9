"""BDD100K's semantic segmentation (Yu et al., CVPR 2020), in its current and its older tree."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.layouts.encodings import Encoding, train_ids
from clouds_deploy.data.layouts.layout import Layout, Sample
from clouds_deploy.data.layouts.tree import images_inside, label_maps_inside, root_or_below, subfolders

_TREES = {
    "images/10k": ("labels/sem_seg/masks", ""),
    "seg/images": ("seg/labels", "_train_id"),
}
"""Folder of images -> folder of label maps, and the suffix of their stems."""


def _tree(root: Path) -> tuple[Path, Path, str] | None:
    """Folder of images, folder of label maps, and suffix; the current tree before the older one."""
    for images, (labels, suffix) in _TREES.items():
        base = root_or_below(root, "bdd100k", images)
        if (base / images).is_dir():
            return base / images, base / labels, suffix
    return None


def _splits(root: Path) -> tuple[str, ...]:
    tree = _tree(root)
    return tuple(subfolders(tree[0])) if tree else ()


def _samples(root: Path, split: str) -> list[Sample]:
    tree = _tree(root)
    if tree is None:
        return []
    images, labels, suffix = tree
    return [
        Sample.among(p.stem, p, [labels / split / f"{p.stem}{suffix}.png"])
        for p in images_inside(images / split)
    ]


def _labels(root: Path, split: str) -> list[Path]:
    tree = _tree(root)
    return label_maps_inside(tree[1] / split) if tree else []


def _encoding(path: Path) -> Encoding:
    return train_ids()


BDD100K = Layout(
    "bdd100k",
    "images/10k/<split>/*.jpg and labels/sem_seg/masks/<split>/*.png (or the older seg/images/<split>/*.jpg "
    "and seg/labels/<split>/*_train_id.png), or bdd100k/ with them",
    _splits,
    _samples,
    _labels,
    _encoding,
    by_content=True,
)
