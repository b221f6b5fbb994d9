"""Check of every file of a dataset before hours of training depend on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.console import progress
from clouds_deploy.data.images import passed_over, read_image
from clouds_deploy.data.labelled import shared_images, shared_labels
from clouds_deploy.data.layouts import Layout, Reading, Sample, detect, get_layout, label_stem, same_size
from clouds_deploy.data.sources import LayoutSource
from clouds_deploy.errors import CloudsError, shortened
from clouds_deploy.labels import CITYSCAPES, IGNORE, LabelSet, chosen_label_set


@dataclass(frozen=True)
class BadFile:
    """A file that training could not use."""

    path: str
    fault: str
    fix: str


@dataclass(frozen=True)
class DataReport:
    """What a dataset holds.

    Attributes:
        root: Its folder.
        layout: Its layout's name.
        splits: Image files of each split.
        images: Images that could be read.
        labels: Label maps that could be read and used.
        sizes: How many images have which size, "WxH".
        left_out: Images that are there but known to be faulty in the release: no split has them.
        pixels: Counted pixels of each train id, and of `IGNORE`.
        images_with: Images in which each train id occurs.
        bad_files: Every file with a fault.
        labels_read_as: The encodings of the label maps of each split.
        warnings: What is no fault of one file, such as images that are in two splits.
        classes: The label set that labels are counted in.
    """

    root: str
    layout: str
    splits: dict[str, int]
    images: int
    labels: int
    sizes: Counter[str]
    left_out: int
    pixels: Counter[int]
    images_with: Counter[int]
    bad_files: tuple[BadFile, ...]
    labels_read_as: dict[str, str]
    warnings: tuple[str, ...]
    classes: LabelSet = CITYSCAPES

    def to_dict(self) -> dict[str, Any]:
        """Content of `data check --json`; shares are of all labelled pixels, ignored ones included."""
        total = max(sum(self.pixels.values()), 1)
        classes = {
            name: {
                "share": self.pixels[index] / total,
                "pixels": self.pixels[index],
                "images": self.images_with[index],
            }
            for index, name in [*enumerate(self.classes.names), (IGNORE, "ignored")]
        }
        return {
            "root": self.root,
            "layout": self.layout,
            "images": self.images,
            "labels": self.labels,
            "splits": self.splits,
            "sizes": dict(self.sizes.most_common()),
            "left_out": self.left_out,
            "labels_read_as": self.labels_read_as,
            "label_set": self.classes.name,
            "classes": classes,
            "warnings": list(self.warnings),
            "bad_files": [asdict(bad) for bad in self.bad_files],
        }


def check(
    root: Path,
    layout: str | None = None,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    reading: Reading | None = None,
) -> DataReport:
    """Decodes every image and label map of a dataset.

    Faults are collected, not raised: truncated or foreign files, sizes that differ, unknown label ids, and
    orphans (an image without labels in a split where there are some, labels without an image), empty splits,
    two images with one label map, a dataset without any label or with none that holds a class.

    Args:
        root: Its folder.
        layout: Its layout's name; None detects it, see `layouts.detect`.
        split: One split; None means all.
        progress: Called with (done, total).
        reading: How label files become classes; None means Cityscapes' 19.

    Raises:
        CloudsError: There is no such layout, folder or split, or the layout cannot be detected.
    """
    chosen = detect(root) if layout is None else get_layout(layout)
    reading = reading or Reading()
    splits: dict[str, int] = {}
    todo: list[Sample] = []
    bad: list[BadFile] = []
    seen: set[Path] = set()
    left_out: set[Path] = set()
    read_as: dict[str, str] = {}
    warnings: list[str] = [*reading.classes.remarks()] if not reading.plain else []
    for name in (split,) if split else chosen.splits(root):
        try:
            samples = chosen.scan(root, name, reading)
        except CloudsError as error:
            if split:
                raise
            bad.append(BadFile(str(root / name), error.message, error.hint))
            continue
        samples = [s for s in samples if s.image not in seen]
        if not samples:
            continue  # another name for a set that was counted already
        seen.update(s.image for s in samples)
        splits[name] = len(samples)
        read_as[name] = chosen.read_as(samples)
        bad += _shared(samples)
        todo += samples
        bad += _orphans(samples, chosen.list_labels(root, name))
        left_out.update(chosen.left_out(root, name))
    if "train" in splits and "val" in splits:
        parts = [LayoutSource(chosen.name, root, name, reading) for name in ("train", "val")]
        shared = shared_images(*parts)
        if shared:
            warnings.append(f"{len(shared)} images of `val` are in `train` too, such as {shared[0]}")
    elif not split and "val" in chosen.splits(root) and len(splits) == 1:
        warnings.append("train and val are the same images: name other images for validation, data.val_root")
    over = passed_over([root])
    if over:
        kinds = Counter(path.suffix.lower() for path in over)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        some = shortened([path.name for path in over])
        warnings.append(f"{len(over)} files of formats that are not read were passed over ({counts}): {some}")
    if todo and not bad and all(sample.labels is None for sample in todo):
        first = todo[0]
        fix = f"{chosen.labels_hint(root)}put label maps there, or give the layout: --layout"
        bad.append(BadFile(str(root), f"no image has labels: looked for {first.expected} and so on", fix))
    outcomes: list[_Outcome] = []
    with ThreadPoolExecutor() as pool:
        for outcome in pool.map(lambda sample: _look(chosen, sample), todo):
            outcomes.append(outcome)
            if progress is not None:
                progress(len(outcomes), len(todo))
    pixels: Counter[int] = Counter()
    images_with: Counter[int] = Counter()
    for outcome in outcomes:
        bad += outcome.faults
        pixels.update(outcome.pixels or {})
        images_with.update((outcome.pixels or {}).keys())
    if sum(pixels.values()) and not any(pixels[index] for index in range(reading.classes.count)):
        fault = f"no label map holds any class, only ignored pixels (read as {', '.join(read_as.values())})"
        bad.append(BadFile(str(root), fault, "check how the label maps were made, and their layout"))
    return DataReport(
        root=str(root),
        layout=chosen.name,
        splits=splits,
        images=sum(outcome.size is not None for outcome in outcomes),
        labels=sum(outcome.pixels is not None for outcome in outcomes),
        sizes=Counter(outcome.size for outcome in outcomes if outcome.size is not None),
        left_out=len(left_out),
        pixels=pixels,
        images_with=images_with,
        bad_files=tuple(sorted(bad, key=lambda entry: entry.path)),
        labels_read_as=read_as,
        warnings=tuple(warnings),
        classes=reading.classes,
    )


@dataclass(frozen=True)
class _Outcome:
    """Result for one sample: its size "WxH", the pixels of each train id, its faults."""

    size: str | None
    pixels: dict[int, int] | None
    faults: tuple[BadFile, ...]


def _look(layout: Layout, sample: Sample) -> _Outcome:
    """Decodes a sample's files, each in its own right: a broken image does not hide a broken label map."""
    image = labels = None
    faults = []
    try:
        image = read_image(sample.image)
    except CloudsError as error:
        faults.append(BadFile(str(sample.image), error.message, error.hint))
    if sample.labels is not None:
        try:
            labels = layout.read_labels(sample.labels, sample.encoding)
            if image is not None:
                same_size(sample, image, labels)
        except CloudsError as error:
            faults.append(BadFile(str(sample.labels), error.message, error.hint))
            labels = None
    pixels = None
    if labels is not None:
        counts = np.bincount(labels.ravel(), minlength=256)
        pixels = {int(index): int(counts[index]) for index in np.flatnonzero(counts)}
    size = None if image is None else f"{image.shape[1]}x{image.shape[0]}"
    return _Outcome(size, pixels, tuple(faults))


def _shared(samples: list[Sample]) -> list[BadFile]:
    """Images that have another image's label map."""
    fix = "rename or remove one of the two images, so that each has labels of its own"
    return [
        BadFile(str(other.image), f"shares the labels {one.labels} with {one.image}", fix)
        for one, other in shared_labels(samples)
    ]


def _orphans(samples: list[Sample], label_maps: list[Path]) -> list[BadFile]:
    """Label maps without an image, and images without labels in a split that has label maps."""
    if not label_maps:
        return []
    claimed = {label_stem(s.labels) for s in samples if s.labels is not None}
    return [
        BadFile(
            str(s.image),
            "the image has no labels",
            f"add its label map, {s.expected}, or remove the image",
        )
        for s in samples
        if s.labels is None
    ] + [
        BadFile(str(path), "the label map has no image", "add its image, or remove it")
        for path in label_maps
        if label_stem(path) not in claimed
    ]


def data_check(
    root: str | Path, *, layout: str | None = None, split: str | None = None, classes: Any = None
) -> dict[str, Any]:
    """Decodes every file of a dataset and counts; see `data.check.check`.

    Args:
        root: Its folder.
        layout: Its layout's name; None detects it.
        split: One split; None means all.
        classes: Label set to count in: a shipped one's name, a file, or a `LabelSet`; None means
            `cityscapes19`.

    Returns:
        `DataReport.to_dict()`; `bad_files` is empty when the dataset has no faults.
    """
    with progress("checking", 1, "file") as advance:
        reading = Reading(CITYSCAPES if classes is None else chosen_label_set(classes))
        told = lambda done, total: advance(done, total=total)  # noqa: E731
        return check(Path(root), layout, split, told, reading).to_dict()
