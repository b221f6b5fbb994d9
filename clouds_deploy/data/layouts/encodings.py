"""Encodings of label files: one table each, from raw ids to train ids.

The tables are those of docs/explanation/method.md 4, which CLOUDS was trained and evaluated with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clouds_deploy.data.images import read_label_ids, read_red_ids
from clouds_deploy.labels import IGNORE, NAMES, UNKNOWN_ID, cityscapes_table, shipped_set, train_id_table

Table = npt.NDArray[np.int16]


@dataclass(frozen=True, eq=False)
class Encoding:
    """Encoding of the ids in a label file.

    Attributes:
        name: Of its ids, in the plural, for messages.
        meaning: Its range in words, for messages.
        table: (256,) or more int16; raw id -> train id, `IGNORE`, or `UNKNOWN_ID` where there is no such id.
        read: Label file -> (H, W) raw ids, each a place in the table.
        names: Raw id -> the name of its class in the dataset's own label set, where that is finer.
        known: Names that its ids have, in its own label set and among Cityscapes' classes; see `Reading`.
        ignored: Those that no class of the model's label set stands for.
    """

    name: str
    meaning: str
    table: Table
    read: Callable[[Path], npt.NDArray[np.integer]] = read_label_ids
    names: Mapping[int, str] = field(default_factory=dict)
    known: frozenset[str] = frozenset()
    ignored: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def train_ids() -> Encoding:
    """The project's own encoding, called labelTrainIds by Cityscapes' tools."""
    meaning = f"0 = {NAMES[0]} ... 18 = {NAMES[-1]}, 255 = ignore"
    return Encoding("train ids", meaning, train_id_table())


@lru_cache(maxsize=1)
def cityscapes_ids() -> Encoding:
    """Encoding of Cityscapes' labelIds."""
    return Encoding("Cityscapes ids", "0..33", cityscapes_table(), names=names_of("cityscapes34"))


@lru_cache(maxsize=1)
def gta5_ids() -> Encoding:
    """Encoding of GTA5: Cityscapes' ids, and 34 for the licence plate, which is -1 in Cityscapes."""
    table = cityscapes_table()
    table[34] = IGNORE
    return Encoding("GTA5 ids", "0..34", table, names=names_of("cityscapes34"))


@lru_cache(maxsize=1)
def synthia_ids() -> Encoding:
    """Encoding of SYNTHIA-RAND-CITYSCAPES, where terrain, truck and train are not evaluated.

    Its files are PNGs of three 16-bit channels: the class in the first, the instance in the second.
    """
    classes = {
        "road": 3,
        "sidewalk": 4,
        "building": 2,
        "wall": 21,
        "fence": 5,
        "pole": 7,
        "traffic light": 15,
        "traffic sign": 9,
        "vegetation": 6,
        "terrain": 16,
        "sky": 1,
        "person": 10,
        "rider": 17,
        "car": 8,
        "truck": 18,
        "bus": 19,
        "train": 20,
        "motorcycle": 12,
        "bicycle": 11,
    }
    table = table_of({index: name for name, index in classes.items()}, 23)
    return Encoding("SYNTHIA ids", "0..22", table, read_red_ids)


def names_of(label_set: str) -> dict[int, str]:
    """Raw id -> class name of a shipped label set."""
    return {index: one.name for one in shipped_set(label_set).classes for index in one.ids}


def table_of(classes: dict[int, str], count: int) -> Table:
    """Table of an encoding.

    Args:
        classes: Raw id -> the name of its Cityscapes class.
        count: Number of ids in the encoding, from 0.

    Returns:
        (256,) int16: train ids of `classes`, `IGNORE` for the other ids, `UNKNOWN_ID` from `count` on.
    """
    table = np.full(256, UNKNOWN_ID, np.int16)
    table[:count] = IGNORE
    for index, name in classes.items():
        table[index] = NAMES.index(name)
    return table
