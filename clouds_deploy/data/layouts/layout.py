"""Datasets as their downloads unpack: where images and labels lie and what the ids mean.

A layout is one entry of `LAYOUTS`: a function that lists samples and a table that turns raw ids into train
ids. Nothing is converted or moved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.data.images import IMAGE_SUFFIXES, Pixels, files_inside, read_image, read_label_ids
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels import IGNORE, NAMES, UNKNOWN_ID, cityscapes_table, train_id_table


@dataclass(frozen=True)
class Sample:
    """One image and where its labels are.

    Attributes:
        name: Unique within the split.
        image: The image file.
        labels: The label file, None when there is none.
    """

    name: str
    image: Path
    labels: Path | None


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on disk.

    Attributes:
        name: What `--layout` calls it.
        expects: The tree in words, for errors.
        list_splits: Root -> the names of its splits; () when the tree is not of this layout.
        list_samples: (root, split) -> samples, sorted by name.
        list_labels: (root, split) -> every label map there, whether an image claims it or not.
        encoding: Label file -> how its ids are to be read: `train ids` or `Cityscapes ids`.
    """

    name: str
    expects: str
    list_splits: Callable[[Path], tuple[str, ...]]
    list_samples: Callable[[Path, str], list[Sample]]
    list_labels: Callable[[Path, str], list[Path]]
    encoding: Callable[[Path], str]

    def scan(self, root: Path, split: str) -> list[Sample]:
        """List a split's samples.

        Raises:
            CloudsError: The root is missing, empty, of another layout, or has no such split.
        """
        splits = self.splits(root)
        if split not in splits:
            found = ", ".join(f"`{s}`" for s in splits)
            raise CloudsError(
                f"{root} has no split `{split}`", f"it has {found}: data.train_split, data.val_split"
            )
        samples = self.list_samples(root, split)
        if not samples:
            raise CloudsError(f"split `{split}` of {root} holds no images", f"expected {self.expects}")
        return samples

    def splits(self, root: Path) -> tuple[str, ...]:
        """List the splits there are; errors as `scan`."""
        if not root.is_dir():
            raise CloudsError(f"there is no folder {root}", "check data.root, or --data")
        splits = self.list_splits(root)
        if splits:
            return splits
        if not any(root.iterdir()):
            raise CloudsError(f"{root} is empty", f"expected {self.expects}")
        others = [
            layout.name for layout in LAYOUTS.values() if layout is not self and layout.list_splits(root)
        ]
        above = root.absolute().parent
        hint = f"expected {self.expects}"
        if others:
            hint = f"it looks like --layout {others[0]}"
        elif self.list_splits(above):
            hint = f"give the folder above it, {above}"
        raise CloudsError(f"{root} is not of layout `{self.name}`", hint)

    def read_labels(self, path: Path) -> Pixels:
        """Read a label file as train ids.

        Returns:
            (H, W) uint8: 0..18, and 255 for pixels that don't count.

        Raises:
            CloudsError: The file is no label map, or holds an id its encoding does not know.
        """
        ids = read_label_ids(path)
        encoding = self.encoding(path)
        table = _TABLES[encoding]()
        labels = table[ids]
        wrong = labels == UNKNOWN_ID
        if wrong.any():
            values, counts = np.unique(ids[wrong], return_counts=True)
            what = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:4], counts[:4], strict=True))
            raise CloudsError(
                f"{path} holds label id {what}, which {encoding} do not have",
                f"the file is read as {encoding} ({_MEANING[encoding]}); mend it, or choose another layout",
            )
        return np.asarray(labels, np.uint8)

    def load(self, sample: Sample) -> tuple[Pixels, Pixels | None]:
        """Read a sample.

        Returns:
            image (H, W, 3) uint8 RGB, and train ids (H, W) uint8 or None.

        Raises:
            CloudsError: A file is missing, damaged or wrong, or the two differ in size.
        """
        image = read_image(sample.image)
        if sample.labels is None:
            return image, None
        labels = self.read_labels(sample.labels)
        same_size(sample, image, labels)
        return image, labels


def same_size(sample: Sample, image: Pixels, labels: Pixels) -> None:
    """Refuse a label map of another size than its image.

    Raises:
        CloudsError: The sizes differ.
    """
    if labels.shape != image.shape[:2]:
        (h, w), (ih, iw) = labels.shape, image.shape[:2]
        raise CloudsError(
            f"{sample.labels} is {w}x{h}, its image {sample.image} is {iw}x{ih}",
            "pair the label map with its own image, at the same size",
        )


def _gta5_table() -> Pixels:
    table = cityscapes_table()
    table[34] = IGNORE  # the licence plate, which Cityscapes calls -1
    return table


_TABLES = {"train ids": train_id_table, "Cityscapes ids": cityscapes_table, "GTA5 ids": _gta5_table}
_MEANING = {
    "train ids": f"0 = {NAMES[0]} ... 18 = {NAMES[-1]}, 255 = ignore",
    "Cityscapes ids": "0..33",
    "GTA5 ids": "0..34",
}
_TRAIN_IDS, _LABEL_IDS = "_labelTrainIds", "_labelIds"
_NOT_LABELS = ("_color", "_instanceIds", "_instanceTrainIds")


def label_stem(path: Path) -> str:
    """Give a label file's path without suffix and encoding: the same for every encoding of one map."""
    return str(path.with_name(path.stem.removesuffix(_TRAIN_IDS).removesuffix(_LABEL_IDS)))


def _encoding_by_name(path: Path) -> str:
    return "Cityscapes ids" if path.stem.endswith(_LABEL_IDS) else "train ids"


def _gta5_encoding(path: Path) -> str:
    return "train ids" if path.stem.endswith(_TRAIN_IDS) else "GTA5 ids"


def _images(folder: Path) -> list[Path]:
    return files_inside(folder, IMAGE_SUFFIXES)


def _label_maps(folder: Path) -> list[Path]:
    return [p for p in _images(folder) if not p.stem.endswith(_NOT_LABELS)] if folder.is_dir() else []


def _cityscapes_splits(root: Path) -> tuple[str, ...]:
    folder = root / "leftImg8bit"
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")))


def _cityscapes_samples(root: Path, split: str) -> list[Sample]:
    samples = []
    for image in _images(root / "leftImg8bit" / split):
        stem = image.stem.removesuffix("_leftImg8bit")
        folder = root / "gtFine" / split / image.parent.relative_to(root / "leftImg8bit" / split)
        labels = [folder / f"{stem}_gtFine{suffix}.png" for suffix in (_TRAIN_IDS, _LABEL_IDS)]
        samples.append(Sample(stem, image, next((path for path in labels if path.is_file()), None)))
    return samples


def _cityscapes_labels(root: Path, split: str) -> list[Path]:
    return [p for p in _label_maps(root / "gtFine" / split) if p.stem.endswith((_TRAIN_IDS, _LABEL_IDS))]


def _folder_splits(root: Path) -> tuple[str, ...]:
    if (root / "images").is_dir():
        return ("all", "train", "val")  # one set: it serves as any split
    inside = tuple(sorted(p.name for p in root.iterdir() if (p / "images").is_dir()))
    if inside:
        return inside
    plain = any(p.suffix.lower() in IMAGE_SUFFIXES for p in root.iterdir() if p.is_file())
    return ("all", "train", "val") if plain else ()


def _gta5_splits(root: Path) -> tuple[str, ...]:
    return _folder_splits(root) if (root / "images").is_dir() and (root / "labels").is_dir() else ()


def _folder_base(root: Path, split: str) -> Path:
    return root if (root / "images").is_dir() or not (root / split / "images").is_dir() else root / split


def _folder_labels(root: Path, split: str) -> list[Path]:
    return _label_maps(_folder_base(root, split) / "labels")


def _folder_samples(root: Path, split: str) -> list[Sample]:
    base = _folder_base(root, split)
    if not (base / "images").is_dir():  # images and nothing else
        return [Sample(p.relative_to(base).with_suffix("").as_posix(), p, None) for p in _images(base)]
    labels = {}
    for path in sorted(_folder_labels(root, split), key=lambda p: p.stem.endswith(_TRAIN_IDS)):
        labels[Path(label_stem(path)).relative_to(base / "labels").as_posix()] = path
    samples = []
    for image in _images(base / "images"):
        name = image.relative_to(base / "images").with_suffix("").as_posix()
        samples.append(Sample(name, image, labels.get(name)))
    return samples


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        Layout(
            "cityscapes",
            "leftImg8bit/<split>/<city>/*_leftImg8bit.png and "
            "gtFine/<split>/<city>/*_gtFine_labelTrainIds.png (or *_labelIds.png)",
            _cityscapes_splits,
            _cityscapes_samples,
            _cityscapes_labels,
            _encoding_by_name,
        ),
        Layout(
            "folder",
            "images/ and labels/ (or <split>/images and <split>/labels), same stems, labels as train ids",
            _folder_splits,
            _folder_samples,
            _folder_labels,
            _encoding_by_name,
        ),
        Layout(
            "gta5",
            "images/ and labels/ as the parts of the download unpack, labels as GTA5 ids",
            _gta5_splits,
            _folder_samples,
            _folder_labels,
            _gta5_encoding,
        ),
    )
}


def get_layout(name: str) -> Layout:
    """Find a layout by name.

    Raises:
        CloudsError: There is none of that name.
    """
    if name not in LAYOUTS:
        raise CloudsError(f"there is no layout `{name}`", nearest(name, [*LAYOUTS, "streets"]))
    return LAYOUTS[name]
