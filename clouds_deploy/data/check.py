"""A look at every file of a dataset before hours of training trust it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.data.layouts import Layout, Sample, get_layout
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import IGNORE, NAMES


@dataclass(frozen=True)
class BadFile:
    """A file that training would stumble over."""

    path: str
    fault: str
    fix: str


@dataclass
class DataReport:
    """What a dataset holds.

    Attributes:
        root: Its folder.
        layout: Its layout's name.
        splits: Images of each split.
        images: Images in all.
        labels: Label maps in all.
        sizes: How many images have which size, "WxH".
        pixels: Counted pixels of each train id, and of `IGNORE`.
        images_with: Images in which each train id occurs.
        bad_files: Every file with a fault.
    """

    root: str
    layout: str
    splits: dict[str, int] = field(default_factory=dict)
    images: int = 0
    labels: int = 0
    sizes: Counter[str] = field(default_factory=Counter)
    pixels: Counter[int] = field(default_factory=Counter)
    images_with: Counter[int] = field(default_factory=Counter)
    bad_files: list[BadFile] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Give what `data check --json` prints; shares are of all labelled pixels, ignored ones included."""
        total = max(sum(self.pixels.values()), 1)
        classes = {
            name: {"share": self.pixels[index] / total, "images": self.images_with[index]}
            for index, name in [*enumerate(NAMES), (IGNORE, "ignored")]
        }
        return {
            "root": self.root,
            "layout": self.layout,
            "images": self.images,
            "labels": self.labels,
            "splits": self.splits,
            "sizes": dict(self.sizes.most_common()),
            "classes": classes,
            "bad_files": [asdict(bad) for bad in self.bad_files],
        }


def check(
    root: Path,
    layout: str,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Decode every image and label map of a dataset.

    Faults are collected, not raised: truncated or foreign files, sizes that differ, unknown label ids, and
    orphans (an image without labels in a split where others have some, labels without an image).

    Args:
        root: Its folder.
        layout: Its layout's name.
        split: Only this one; None means all.
        progress: Told (done, total).

    Raises:
        CloudsError: There is no such layout, folder or split.
    """
    chosen = get_layout(layout)
    names = (split,) if split else chosen.splits(root)
    report = DataReport(str(root), layout)
    todo: list[Sample] = []
    seen: set[Path] = set()
    for name in names:
        samples = [s for s in chosen.scan(root, name) if s.image not in seen]
        if not samples:
            continue  # another name for a set that was counted already
        seen.update(s.image for s in samples)
        report.splits[name] = len(samples)
        todo.extend(samples)
        if any(s.labels for s in samples):
            report.bad_files += [
                BadFile(str(s.image), "the image has no labels", "add its label map, or remove the image")
                for s in samples
                if s.labels is None
            ]
    report.bad_files += _orphans(root, chosen, todo, names if split else None)
    with ThreadPoolExecutor() as pool:
        for done, (sample, outcome) in enumerate(
            zip(todo, pool.map(lambda s: _look(chosen, s), todo), strict=True)
        ):
            if isinstance(outcome, CloudsError):
                path = sample.labels if str(sample.labels) in outcome.message else sample.image
                report.bad_files.append(BadFile(str(path), outcome.message, outcome.hint))
            else:
                _count(report, *outcome)
            if progress is not None:
                progress(done + 1, len(todo))
    report.bad_files.sort(key=lambda bad: bad.path)
    return report


Outcome = tuple[tuple[int, int], "np.ndarray[Any, np.dtype[np.int64]] | None"]


def _look(layout: Layout, sample: Sample) -> Outcome | CloudsError:
    try:
        image, labels = layout.load(sample)
    except CloudsError as error:
        return error
    return (image.shape[1], image.shape[0]), None if labels is None else np.bincount(
        labels.ravel(), minlength=256
    )


def _count(report: DataReport, size: tuple[int, int], counts: Any) -> None:
    report.images += 1
    report.sizes[f"{size[0]}x{size[1]}"] += 1
    if counts is None:
        return
    report.labels += 1
    for index in np.flatnonzero(counts):
        report.pixels[int(index)] += int(counts[index])
        report.images_with[int(index)] += 1


def _orphans(
    root: Path, layout: Layout, samples: list[Sample], splits: tuple[str, ...] | None
) -> list[BadFile]:
    """Find label maps that no image claims."""
    claimed = {s.labels for s in samples if s.labels}
    if not claimed:
        return []
    stems = {_stem(path) for path in claimed}
    found = []
    for folder in ("gtFine", "labels", *(f"{name}/labels" for name in layout.splits(root))):
        base = root / folder
        for path in base.rglob("*.png") if base.is_dir() else ():
            if splits and folder == "gtFine" and path.relative_to(base).parts[0] not in splits:
                continue
            if path.stem.endswith(("_color", "_instanceIds", "_instanceTrainIds")) or _stem(path) in stems:
                continue
            found.append(BadFile(str(path), "the label map has no image", "add its image, or remove it"))
    return found


def _stem(path: Path) -> str:
    return str(path.with_name(path.stem.removesuffix("_labelTrainIds").removesuffix("_labelIds")))
