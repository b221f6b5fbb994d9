"""ACDC (Sakaridis et al., ICCV 2021), as `rgb_anon_trainvaltest.zip` and `gt_trainval.zip` unpack.

A split is all conditions together (`val`), or one of them (`val-night`). The reference images of clear
weather (`train_ref` and so on) have no labels of their own and are ignored.
"""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.layouts.layout import LABEL_IDS, TRAIN_IDS, Layout, Sample
from clouds_deploy.data.layouts.tree import encoding_by_name, images_inside, label_maps_inside, subfolders

_IMAGES, _LABELS = "rgb_anon", "gt"
_SPLITS = ("train", "val", "test")


def _parts(root: Path) -> list[tuple[str, str]]:
    """Pairs (split, condition) that exist."""
    return [
        (split, condition)
        for split in _SPLITS
        for condition in subfolders(root / _IMAGES)
        if (root / _IMAGES / condition / split).is_dir()
    ]


def _splits(root: Path) -> tuple[str, ...]:
    parts = _parts(root)
    whole = dict.fromkeys(split for split, _ in parts)
    return (*whole, *(f"{split}-{condition}" for split, condition in parts))


def _folders(root: Path, split: str) -> list[str]:
    """Folders of a split, the same below images and labels."""
    return [
        f"{condition}/{name}" for name, condition in _parts(root) if split in (name, f"{name}-{condition}")
    ]


def _samples(root: Path, split: str) -> list[Sample]:
    samples = []
    for folder in _folders(root, split):
        for image in images_inside(root / _IMAGES / folder):
            stem = image.stem.removesuffix(f"_{_IMAGES}")
            labels = root / _LABELS / image.parent.relative_to(root / _IMAGES)
            candidates = [labels / f"{stem}_{_LABELS}{s}.png" for s in (TRAIN_IDS, LABEL_IDS)]
            name = image.with_name(stem).relative_to(root / _IMAGES).as_posix()
            samples.append(Sample.among(name, image, candidates))
    return samples


def _labels(root: Path, split: str) -> list[Path]:
    return [
        path
        for folder in _folders(root, split)
        for path in label_maps_inside(root / _LABELS / folder)
        if path.stem.endswith((TRAIN_IDS, LABEL_IDS))
    ]


ACDC = Layout(
    "acdc",
    "rgb_anon/<condition>/<split>/<sequence>/*_rgb_anon.png and "
    "gt/<condition>/<split>/<sequence>/*_gt_labelTrainIds.png (or *_labelIds.png)",
    _splits,
    _samples,
    _labels,
    encoding_by_name,
)
