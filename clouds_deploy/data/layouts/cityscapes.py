"""Cityscapes, as `leftImg8bit_trainvaltest.zip` and `gtFine_trainvaltest.zip` unpack into one folder."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.layouts.layout import LABEL_IDS, TRAIN_IDS, Layout, Sample
from clouds_deploy.data.layouts.tree import encoding_by_name, images_inside, label_maps_inside, subfolders

_IMAGES, _LABELS = "leftImg8bit", "gtFine"


def _splits(root: Path) -> tuple[str, ...]:
    return tuple(subfolders(root / _IMAGES))


def _samples(root: Path, split: str) -> list[Sample]:
    samples = []
    for image in images_inside(root / _IMAGES / split):
        stem = image.stem.removesuffix(f"_{_IMAGES}")
        folder = root / _LABELS / split / image.parent.relative_to(root / _IMAGES / split)
        candidates = [folder / f"{stem}_{_LABELS}{s}.png" for s in (TRAIN_IDS, LABEL_IDS)]
        samples.append(Sample.among(stem, image, candidates))
    return samples


def _labels(root: Path, split: str) -> list[Path]:
    return [p for p in label_maps_inside(root / _LABELS / split) if p.stem.endswith((TRAIN_IDS, LABEL_IDS))]


CITYSCAPES = Layout(
    "cityscapes",
    "leftImg8bit/<split>/<city>/*_leftImg8bit.png and "
    "gtFine/<split>/<city>/*_gtFine_labelIds.png (or *_labelTrainIds.png)",
    _splits,
    _samples,
    _labels,
    encoding_by_name,
)
