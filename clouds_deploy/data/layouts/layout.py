"""Layout of a dataset: the paths of images and labels, and the meaning of ids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.data.images import Pixels, read_image
from clouds_deploy.data.layouts.encodings import Encoding
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import UNKNOWN_ID


@dataclass(frozen=True)
class Sample:
    """Paths of one image and its labels.

    Attributes:
        name: Unique within the split.
        image: The image file.
        labels: The label file, None when there is none.
    """

    name: str
    image: Path
    labels: Path | None


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
    """

    name: str
    expects: str
    list_splits: Callable[[Path], tuple[str, ...]]
    list_samples: Callable[[Path, str], list[Sample]]
    list_labels: Callable[[Path, str], list[Path]]
    encoding: Callable[[Path], Encoding]
    recognises: Callable[[Path], bool] | None = None
    left_out: Callable[[Path, str], list[Path]] = nothing_left_out

    def claims(self, root: Path) -> bool:
        """Whether the folder matches this layout and no similar one."""
        return bool(self.list_splits(root)) and (self.recognises is None or self.recognises(root))

    def scan(self, root: Path, split: str) -> list[Sample]:
        """Samples of a split.

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

    def read_labels(self, path: Path) -> Pixels:
        """Reads a label file and converts it to train ids.

        Returns:
            (H, W) uint8: 0..18, and 255 for ignored pixels.

        Raises:
            CloudsError: The file is not a label map, or has an id that its encoding lacks.
        """
        encoding = self.encoding(path)
        ids = encoding.read(path)
        labels = encoding.table[ids]
        wrong = labels == UNKNOWN_ID
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
        labels = self.read_labels(sample.labels)
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
