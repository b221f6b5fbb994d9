"""Checks of labelled images before the first long step, and what is said about how they are read."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.data.layouts import Sample
from clouds_deploy.data.sources import LayoutSource, Selection, Source, StreetsSource
from clouds_deploy.errors import CloudsError, shortened
from clouds_deploy.labels import IGNORE

_HEAD = 1 << 16
"""Bytes of a file that are compared, where another file has its size."""


def _parts(source: Source) -> Iterator[tuple[LayoutSource, list[Sample]]]:
    """Datasets on disk that a source takes samples from, each with those samples."""
    if isinstance(source, LayoutSource):
        yield source, source.samples
    elif isinstance(source, Selection):
        for part, places in source.parts():
            if isinstance(part, LayoutSource):
                yield part, [part.samples[place] for place in sorted(set(places))]


def describe(source: Source) -> list[dict[str, Any]]:
    """Facts on how the datasets of a source are read, for people and for JSON.

    Returns:
        Of each dataset `root`, `layout`, `split`, `images`, `labels`: the encodings of its label files, and,
        where there are any, `ignored`: its classes that no class of the model stands for.
    """
    found = []
    for part, samples in _parts(source):
        ignored = {name: None for s in samples if s.encoding is not None for name in s.encoding.ignored}
        facts: dict[str, Any] = {
            "root": str(part.root),
            "layout": part.layout.name,
            "split": part.split,
            "images": len(samples),
            "labels": part.layout.read_as(samples),
        }
        found.append({**facts, "ignored": list(ignored)} if ignored else facts)
    for streets in _streets(source):
        reading = streets.reading
        if reading is not None:
            about = {"root": f"streets/{streets.domain}", "layout": "streets", "split": str(streets.seed)}
            read = f"Cityscapes classes, as classes of {reading.classes.name}"
            facts = {**about, "images": len(streets), "labels": read}
            ignored = dict.fromkeys(reading.ignored())
            found.append({**facts, "ignored": list(ignored)} if ignored else facts)
    return found


def _streets(source: Source) -> list[StreetsSource]:
    parts = [part for part, _ in source.parts()] if isinstance(source, Selection) else [source]
    return [part for part in parts if isinstance(part, StreetsSource)]


def told(facts: dict[str, Any]) -> str:
    """One line of `describe`, for people."""
    return (
        f"{facts['root']}: layout {facts['layout']}, split {facts['split']}, {facts['images']} images, "
        f"labels read as {facts['labels']}"
        + (f"; ignored: {shortened(facts['ignored'])}" if facts.get("ignored") else "")
    )


def check_labelled(source: Source, what: str, *, any_class: bool = True) -> None:
    """Raises an error for a source whose images can't all be trained or evaluated on.

    Args:
        source: The images.
        what: Their name in messages, such as "training images".
        any_class: Whether label maps that hold no class at all are an error.

    Raises:
        CloudsError: Images have no labels, two share a label file, or no label file holds any class.
    """
    for part, samples in _parts(source):
        missing = [sample for sample in samples if sample.labels is None]
        if missing:
            first = missing[0]
            raise CloudsError(
                f"{len(missing)} of {len(samples)} {what} in {part.root} have no labels; "
                f"the first is {first.image}, whose labels were expected at {first.expected}",
                f"{part.layout.labels_hint(part.root)}add the label maps, or move these images away; "
                f"`clouds-deploy data check {part.root} --layout {part.layout.name}` names all",
            )
        twice = shared_labels(samples)
        if twice:
            one, other = twice[0]
            raise CloudsError(
                f"{one.image} and {other.image} share the labels {one.labels}"
                + (f"; so do {len(twice) - 1} more pairs" if len(twice) > 1 else ""),
                "rename or remove one of the two images, so that each has labels of its own",
            )
        if any_class and samples and not _any_class(part, samples):
            raise CloudsError(
                f"no label map of the {len(samples)} {what} in {part.root} holds any class, only {IGNORE} "
                f"or void ids (read as {part.layout.read_as(samples)})",
                "check how the label maps were made: one channel of train ids 0..18, or Cityscapes' ids; "
                "other classes need a label set, data.classes=FILE"
                if part.plain
                else "check the ids or colours of the label set, and data.map",
            )


def shared_labels(samples: Sequence[Sample]) -> list[tuple[Sample, Sample]]:
    """Pairs of images that have the same label file."""
    first: dict[Path, Sample] = {}
    return [
        (first[sample.labels], sample)
        for sample in samples
        if sample.labels is not None and first.setdefault(sample.labels, sample) is not sample
    ]


def _any_class(part: LayoutSource, samples: Sequence[Sample]) -> bool:
    """Whether a label map holds a class; a damaged one counts as one that does, its reader will name it."""
    for sample in samples:
        if sample.labels is None:
            continue
        try:
            if (part.layout.read_labels(sample.labels, sample.encoding) != IGNORE).any():
                return True
        except CloudsError:
            return True
    return False


def shared_images(train: Source, val: Source) -> list[str]:
    """Validation images that are training images too: the same file, or a copy under another name.

    Returns:
        Their paths. Copies are told by size and by the first 64 kB.
    """
    sizes: dict[int, list[Path]] = defaultdict(list)
    known = set()
    for path in _images(train):
        known.add(path.resolve())
        sizes[_size(path)].append(path)
    heads: dict[int, set[bytes]] = {}
    found = []
    for path in _images(val):
        size = _size(path)
        if path.resolve() not in known:
            if size not in sizes:
                continue
            if size not in heads:
                heads[size] = {_head(one) for one in sizes[size]}
            if size < 0 or _head(path) not in heads[size]:
                continue
        found.append(str(path))
    return found


def _images(source: Source) -> Iterator[Path]:
    for _, samples in _parts(source):
        for sample in samples:
            yield sample.image


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # whoever reads it names the fault
        return -1


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(_HEAD)).digest()
    except OSError:
        return str(path).encode()  # equal to no other
