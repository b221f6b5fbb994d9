"""The 19 Cityscapes classes: the default label set, which public layouts and synthetic streets hold.

Sources: names, ids and palette from the Cityscapes benchmark; synonyms from CLOUDS' class list (Benigmim et
al., CVPR 2024, released configuration).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clouds_deploy.labels.label_set import IGNORE, UNKNOWN_ID, LabelClass
from clouds_deploy.labels.shipped import shipped_set

CITYSCAPES = shipped_set("cityscapes19")
CLASSES: tuple[LabelClass, ...] = CITYSCAPES.classes
"""All classes, in the order of their train ids."""

NAMES: tuple[str, ...] = CITYSCAPES.names
NUM_CLASSES = CITYSCAPES.count

SYNTHIA_16: tuple[str, ...] = tuple(name for name in NAMES if name not in ("terrain", "truck", "train"))
"""The classes that models trained on SYNTHIA are usually compared on."""

SYNTHIA_13: tuple[str, ...] = tuple(name for name in SYNTHIA_16 if name not in ("wall", "fence", "pole"))
"""The smaller set that some papers report too."""


def palette() -> npt.NDArray[np.uint8]:
    """Colours of the 19 classes, (256, 3) uint8 RGB; see `LabelSet.palette`."""
    return CITYSCAPES.palette()


def cityscapes_table() -> npt.NDArray[np.int16]:
    """Table from Cityscapes `labelIds` (0..33) to train ids.

    Returns:
        (256,) int16: train id for the 19 classes, `IGNORE` for the benchmark's other 15 ids (and for
        255, which is -1, the licence plate, in 8 bits), `UNKNOWN_ID` for ids Cityscapes never defined.
    """
    table = np.full(256, UNKNOWN_ID, np.int16)
    table[:34] = IGNORE
    table[255] = IGNORE
    for c in CLASSES:
        table[c.cityscapes_id] = c.train_id
    return table


def train_id_table() -> npt.NDArray[np.int16]:
    """Table of the 19 classes' train ids, (256,) int16; see `LabelSet.train_ids`."""
    return CITYSCAPES.train_ids()
