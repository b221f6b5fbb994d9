"""How the label files of a dataset become the classes of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clouds_deploy.data.images import Pixels, read_colors, read_label_ids, read_wide_ids
from clouds_deploy.data.layouts.encodings import Encoding, Table
from clouds_deploy.errors import CloudsError, nearest, shortened
from clouds_deploy.labels import CITYSCAPES, IGNORE, NAMES, UNKNOWN_ID, LabelSet
from clouds_deploy.labels.label_set import INSTANCES


@dataclass(frozen=True)
class Reading:
    """How the label files of a dataset become the classes of a model.

    Attributes:
        classes: The model's label set.
        files: The label set that the files are written in. None means `classes` for the layout `folder` (of
            Cityscapes' 19 classes it also knows the usual encodings), and what the layout defines for others.
        mapping: Class of the files -> class of the model, None to ignore it. Classes of equal names need no
            entry; those that neither is true of are ignored.
    """

    classes: LabelSet = CITYSCAPES
    files: LabelSet | None = None
    mapping: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def plain(self) -> bool:
        """Whether files are read as the layout says and nothing is changed."""
        return self.classes == CITYSCAPES and self.files is None and not self.mapping

    def own(self, *, folder: bool) -> Encoding | None:
        """Encoding of files in a label set of one's own; None where the layout knows the files.

        Args:
            folder: Whether the layout is `folder`, whose files may mean anything.
        """
        files = self.files or (self.classes if folder else None)
        if files is None or files == CITYSCAPES:
            return None
        return self._translated(file_encoding(files), files.names)

    def translated(self, encoding: Encoding) -> Encoding:
        """An encoding of one of the known datasets, with the model's classes in the place of the 19.

        A raw id is what its own class maps to, else the class of the same name, else what the Cityscapes
        class that stands for it maps to.
        """
        if self.plain:
            return encoding
        return self._translated(encoding, NAMES)

    def table(self, names: tuple[str, ...] = NAMES) -> Pixels:
        """Table from train ids of one label set to those of the model.

        Args:
            names: The label set's.

        Returns:
            (256,) uint8: train ids of the model's classes, `IGNORE` where there is none.
        """
        table = np.full(256, IGNORE, np.uint8)
        table[: len(names)] = [self._target((name,)) for name in names]
        return table

    def ignored(self, names: tuple[str, ...] = NAMES) -> tuple[str, ...]:
        """Classes of a label set that no class of the model stands for."""
        return tuple(n for n in names if self._target((n,)) == IGNORE)

    def check(self, known: set[str]) -> None:
        """Raises an error for an entry of the mapping that no dataset has a class for.

        Args:
            known: Names of the classes of all datasets.

        Raises:
            CloudsError: It names the entry.
        """
        for name in self.mapping:
            if name not in known:
                raise CloudsError(
                    f"the map names the class `{name}`, which the data do not have", nearest(name, known)
                )

    def _target(self, names: tuple[str, ...]) -> int:
        """Train id of the first of several names that leads to one, most exact name first."""
        own = {one.name: one.train_id for one in self.classes.classes}
        for name in names:
            if name in self.mapping:
                target = self.mapping[name]
                return IGNORE if target is None else own[target]
            if name in own:
                return own[name]
        return IGNORE

    def _translated(self, encoding: Encoding, names: tuple[str, ...]) -> Encoding:
        """The encoding with other train ids; `names` are those of its own."""
        table: Table = encoding.table.copy()
        ignored: dict[str, None] = {}
        every: set[str] = set()
        for raw in np.flatnonzero(encoding.table != UNKNOWN_ID):
            known = int(encoding.table[raw])
            called = [encoding.names[int(raw)]] if int(raw) in encoding.names else []
            called += [names[known]] if known != IGNORE else []
            every.update(called)
            table[raw] = self._target(tuple(called))
            if known != IGNORE and table[raw] == IGNORE:
                ignored[called[0]] = None
        name = encoding.name
        if self.classes.names != names or encoding.names:
            name = f"{name}, as classes of {self.classes.name}"
        return replace(encoding, name=name, table=table, known=frozenset(every), ignored=tuple(ignored))


def file_encoding(files: LabelSet) -> Encoding:
    """Encoding of label files that are written in a label set; its table gives that set's train ids."""
    name = {"ids": "ids", "colors": "colours", "instances": "instance ids"}[files.format]
    what = f"{name} of label set {files.name}"
    if files.format == "colors":
        return Encoding(what, files.meaning(), files.train_ids(), partial(read_coded, files))
    table = files.file_ids()
    if files.format == "instances":
        return Encoding(what, files.meaning(), table, read_instances)
    known = np.flatnonzero(table != UNKNOWN_ID)
    read = read_label_ids if known.size == 0 or known[known < 65535].max(initial=0) < 256 else read_wide_ids
    return Encoding(what, files.meaning(), table, read)


def read_instances(path: Path) -> npt.NDArray[np.int32]:
    """Reads class ids from a file of instance ids, id * 1000 + instance; values below 1000 are class ids."""
    values = read_wide_ids(path)
    return np.where(values >= INSTANCES, values // INSTANCES, values)


def read_coded(files: LabelSet, path: Path) -> Pixels:
    """Reads a colour-coded label file.

    Args:
        files: The label set, with the colours.
        path: The file: RGB, or a palette.

    Returns:
        (H, W) uint8 train ids of the set.

    Raises:
        CloudsError: It is no image, or holds colours that the set does not have.
    """
    colors = read_colors(path).astype(np.uint32)
    packed = colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2]
    known = {_pack(one.color): one.train_id for one in files.classes}
    void = files.ignored_color()
    if void is not None:
        known[_pack(void)] = IGNORE
    order = np.array(sorted(known), np.uint32)
    place = np.minimum(np.searchsorted(order, packed), len(order) - 1)
    labels = np.array([known[int(color)] for color in order], np.uint8)[place]
    strange = order[place] != packed
    if void is None:
        labels[strange] = IGNORE
    elif strange.any():
        values, counts = np.unique(packed[strange], return_counts=True)
        most = np.argsort(-counts, kind="stable")
        shown = [f"{_unpack(int(values[i]))} ({counts[i]} pixels)" for i in most]
        raise CloudsError(
            f"{path} holds colours that label set {files.name} does not have: {shortened(shown, 4)}",
            "add them to the set, correct the file (masks saved as JPEG or resized smoothly mix colours), or "
            "write `ignore: void` to ignore every other colour",
        )
    return labels


def _pack(color: tuple[int, int, int]) -> int:
    return color[0] << 16 | color[1] << 8 | color[2]


def _unpack(color: int) -> list[int]:
    return [color >> 16, color >> 8 & 255, color & 255]
