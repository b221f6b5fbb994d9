"""Layout of a dataset: the paths of images and labels, and the meaning of ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clouds_deploy.data.images import Pixels, read_image
from clouds_deploy.data.layouts.content import recognise_encoding
from clouds_deploy.data.layouts.encodings import Encoding
from clouds_deploy.data.layouts.reading import Reading
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import UNKNOWN_ID

TRAIN_IDS, LABEL_IDS = ENCODED = "_labelTrainIds", "_labelIds"
"""Suffixes of the stems of label files that name their encoding."""


@dataclass(frozen=True)
class Sample:
    """Paths of one image and its labels.

    Attributes:
        name: Unique within the split.
        image: The image file.
        labels: The label file, None when there is none.
        expected: Where the label file was looked for.
        encoding: How its ids are to be read, where the content or a label set decides; None means as the
            layout says.
        by_content: Whether the content decided it.
    """

    name: str
    image: Path
    labels: Path | None
    expected: Path | None = None
    encoding: Encoding | None = None
    by_content: bool = False

    @classmethod
    def among(cls, name: str, image: Path, candidates: list[Path]) -> Sample:
        """A sample whose label file is the first of several that exists; the last is the one expected."""
        return cls(name, image, first_file(candidates), candidates[-1])


def first_file(candidates: list[Path]) -> Path | None:
    """First path that is a file, or None."""
    return next((path for path in candidates if path.is_file()), None)


def nothing_left_out(root: Path, split: str) -> list[Path]:
    """No files: the release has none that are known to be faulty."""
    return []


@dataclass(frozen=True)
class Layout:
    """Arrangement of a dataset on disk.

    Attributes:
        name: Value of `--layout`.
        expects: The tree in words, for errors.
        list_splits: Root -> the names of its splits; () when the tree is not of this layout.
        list_samples: (root, split) -> samples, sorted by name.
        list_labels: (root, split) -> every label map there, with an image or without.
        encoding: Label file -> how its ids are to be read.
        recognises: Root -> whether it has this layout for sure; None where `list_splits` suffices.
        left_out: (root, split) -> images that are there but no samples: known faults of the release.
        by_content: Whether names don't tell train ids from other ids, so that the content has to.
        any_classes: Whether label files may be written in any label set, as those of `folder`.
    """

    name: str
    expects: str
    list_splits: Callable[[Path], tuple[str, ...]]
    list_samples: Callable[[Path, str], list[Sample]]
    list_labels: Callable[[Path, str], list[Path]]
    encoding: Callable[[Path], Encoding]
    recognises: Callable[[Path], bool] | None = None
    left_out: Callable[[Path, str], list[Path]] = nothing_left_out
    by_content: bool = False
    any_classes: bool = False

    def claims(self, root: Path) -> bool:
        """Whether the folder matches this layout and no similar one."""
        return bool(self.list_splits(root)) and (self.recognises is None or self.recognises(root))

    def scan(self, root: Path, split: str, reading: Reading | None = None) -> list[Sample]:
        """Samples of a split.

        Args:
            root: The dataset's folder.
            split: The split.
            reading: How label files become classes; None means Cityscapes' 19.

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
        reading = reading or Reading()
        own = reading.own(folder=self.any_classes)
        if own is not None:
            return [replace(sample, encoding=own) for sample in samples]
        samples = self._with_encodings(samples)
        return samples if reading.plain else self._translated(samples, reading)

    def _translated(self, samples: list[Sample], reading: Reading) -> list[Sample]:
        """Samples whose labels become the classes of another label set than Cityscapes' 19."""
        made: dict[int, Encoding] = {}
        found = []
        for sample in samples:
            if sample.labels is not None and sample.labels.stem.endswith(TRAIN_IDS):
                finer = sample.labels.with_name(sample.labels.name.replace(TRAIN_IDS, LABEL_IDS))
                if finer.is_file():  # all of Cityscapes' classes, not 19 of them
                    sample = replace(sample, labels=finer)
            encoding = self.encoding_of(sample)
            if encoding is not None:
                known = made.setdefault(id(encoding), reading.translated(encoding))
                sample = replace(sample, encoding=known)
            found.append(sample)
        return found

    def _with_encodings(self, samples: list[Sample]) -> list[Sample]:
        """Samples that know how their labels are read, where names don't tell it and the content does."""
        if not self.by_content:
            return samples
        unnamed = [s.labels for s in samples if s.labels is not None and not s.labels.stem.endswith(ENCODED)]
        known = recognise_encoding(unnamed) if unnamed else None
        chosen = set() if known is None else set(unnamed)
        return [replace(s, encoding=known, by_content=True) if s.labels in chosen else s for s in samples]

    def encoding_of(self, sample: Sample) -> Encoding | None:
        """How a sample's labels are read; None without labels."""
        return None if sample.labels is None else sample.encoding or self.encoding(sample.labels)

    def splits(self, root: Path) -> tuple[str, ...]:
        """Names of the splits; errors as `scan`."""
        require_folder(root, f"expected {self.expects}")
        splits = self.list_splits(root)
        if splits:
            return splits
        from clouds_deploy.data.layouts import claimants  # which imports this file

        above = root.absolute().parent
        hint = f"expected {self.expects}"
        others = claimants(root)
        if others:
            hint = f"it matches --layout {others[0].name}"
        elif self.list_splits(above):
            hint = f"give the folder above it, {above}"
        raise CloudsError(f"{root} does not have layout `{self.name}`", hint)

    def read_as(self, samples: list[Sample]) -> str:
        """How the labels of samples are read, in words."""
        known = [(encoding, sample) for sample in samples if (encoding := self.encoding_of(sample))]
        counts = Counter(f"{e.name}{', by content' if s.by_content else ''}" for e, s in known)
        if len(counts) < 2:
            return next(iter(counts), "none there")
        return ", ".join(f"{name} ({count})" for name, count in counts.items())

    def labels_hint(self, root: Path) -> str:
        """Start of a hint about missing labels: a folder beside that may hold them under another name."""
        for name in ("masks", "mask", "label", "annotations", "gt", "SegmentationClass"):
            if (root / name).is_dir() and self.list_splits(root) and not (root / "labels").is_dir():
                return f"{root / name} is not read: if it holds the label maps, rename it to labels; else "
        return ""

    def read_labels(self, path: Path, encoding: Encoding | None = None) -> Pixels:
        """Reads a label file and converts it to train ids.

        Args:
            path: The file.
            encoding: How its ids are to be read; None means as the file's name says.

        Returns:
            (H, W) uint8: 0..count-1 of the label set, and 255 for ignored pixels.

        Raises:
            CloudsError: The file is not a label map, or has an id that its encoding lacks.
        """
        encoding = encoding or self.encoding(path)
        ids = encoding.read(path)
        beyond = ids >= len(encoding.table)
        labels = encoding.table[np.where(beyond, 0, ids) if beyond.any() else ids]
        wrong = (labels == UNKNOWN_ID) | beyond
        if wrong.any():
            values, counts = np.unique(ids[wrong], return_counts=True)
            what = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:4], counts[:4], strict=True))
            raise CloudsError(
                f"{path} holds label id {what}, which {encoding.name} do not have",
                f"the file is read as {encoding.name} ({encoding.meaning}); fix it, or choose another layout",
            )
        return np.asarray(labels, np.uint8)

    def load(self, sample: Sample) -> tuple[Pixels, Pixels | None]:
        """Reads image and labels of a sample.

        Returns:
            image (H, W, 3) uint8 RGB, and train ids (H, W) uint8 or None.

        Raises:
            CloudsError: A file is missing, damaged or wrong, or the two differ in size.
        """
        image = read_image(sample.image)
        if sample.labels is None:
            return image, None
        labels = self.read_labels(sample.labels, sample.encoding)
        same_size(sample, image, labels)
        return image, labels


def require_folder(root: Path, hint: str) -> None:
    """Raises an error for a root that is not a folder, or is empty.

    Args:
        root: The dataset's folder.
        hint: Of the error about an empty one.

    Raises:
        CloudsError: It is missing or empty.
    """
    if not root.is_dir():
        raise CloudsError(f"there is no folder {root}", "check data.root, or --data")
    if not any(root.iterdir()):
        raise CloudsError(f"{root} is empty", hint)


def same_size(sample: Sample, image: Pixels, labels: Pixels) -> None:
    """Raises an error for a label map whose size differs from its image's.

    Raises:
        CloudsError: The sizes differ.
    """
    if labels.shape != image.shape[:2]:
        (h, w), (ih, iw) = labels.shape, image.shape[:2]
        raise CloudsError(
            f"{sample.labels} is {w}x{h}, its image {sample.image} is {iw}x{ih}",
            "pair the label map with its own image, at the same size",
        )
