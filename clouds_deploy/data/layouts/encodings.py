"""What the ids in a label file mean: one table per encoding, from raw ids to train ids.

The tables are those of docs/method.md 4, which CLOUDS was trained and evaluated with.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from clouds_deploy.data.images import Pixels, read_label_ids, read_red_ids
from clouds_deploy.labels import IGNORE, NAMES, UNKNOWN_ID, cityscapes_table, train_id_table


@dataclass(frozen=True, eq=False)
class Encoding:
    """How a label file's ids are read.

    Attributes:
        name: What its ids are called, in the plural.
        meaning: Its range in words, for errors.
        table: (256,) uint8; raw id -> train id, `IGNORE`, or `UNKNOWN_ID` where there is no such id.
        read: Label file -> (H, W) uint8 raw ids.
    """

    name: str
    meaning: str
    table: Pixels
    read: Callable[[Path], Pixels] = read_label_ids


@lru_cache(maxsize=1)
def train_ids() -> Encoding:
    """Give the project's own encoding, which Cityscapes' tools call labelTrainIds."""
    meaning = f"0 = {NAMES[0]} ... 18 = {NAMES[-1]}, 255 = ignore"
    return Encoding("train ids", meaning, train_id_table())


@lru_cache(maxsize=1)
def cityscapes_ids() -> Encoding:
    """Give the encoding of Cityscapes' labelIds."""
    return Encoding("Cityscapes ids", "0..33", cityscapes_table())


@lru_cache(maxsize=1)
def gta5_ids() -> Encoding:
    """Give GTA5's encoding: Cityscapes' ids, and 34 for the licence plate that Cityscapes calls -1."""
    table = cityscapes_table()
    table[34] = IGNORE
    return Encoding("GTA5 ids", "0..34", table)


@lru_cache(maxsize=1)
def synthia_ids() -> Encoding:
    """Give SYNTHIA-RAND-CITYSCAPES' encoding; it has no terrain, truck and train that count.

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


def table_of(classes: dict[int, str], count: int) -> Pixels:
    """Makes the table of an encoding.

    Args:
        classes: Raw id -> the name of its Cityscapes class.
        count: How many ids the encoding has, from 0 on.

    Returns:
        (256,) uint8: train ids of `classes`, `IGNORE` for the other ids, `UNKNOWN_ID` from `count` on.
    """
    table = np.full(256, UNKNOWN_ID, np.uint8)
    table[:count] = IGNORE
    for index, name in classes.items():
        table[index] = NAMES.index(name)
    return table
