"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016), as its archive unpacks into `RAND_CITYSCAPES/`."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.layouts.encodings import Encoding, synthia_ids, train_ids
from clouds_deploy.data.layouts.folder import paired
from clouds_deploy.data.layouts.layout import TRAIN_IDS, Layout, Sample
from clouds_deploy.data.layouts.tree import ONE_SET, label_maps_inside, root_or_below

_LABELS = "GT/LABELS"


def _base(root: Path) -> Path:
    return root_or_below(root, "RAND_CITYSCAPES", _LABELS)


def _splits(root: Path) -> tuple[str, ...]:
    base = _base(root)
    return ONE_SET if (base / "RGB").is_dir() and (base / _LABELS).is_dir() else ()


def _samples(root: Path, split: str) -> list[Sample]:
    return paired(_base(root) / "RGB", _base(root) / _LABELS)


def _labels(root: Path, split: str) -> list[Path]:
    return label_maps_inside(_base(root) / _LABELS)


def _encoding(path: Path) -> Encoding:
    return train_ids() if path.stem.endswith(TRAIN_IDS) else synthia_ids()


SYNTHIA = Layout(
    "synthia",
    "RGB/*.png and GT/LABELS/*.png of 16 bits (or GT/LABELS/*_labelTrainIds.png), "
    "or RAND_CITYSCAPES/ with them",
    _splits,
    _samples,
    _labels,
    _encoding,
)
