"""The 19 Cityscapes classes, used by every stage.

Sources: class names, ids and palette from the Cityscapes benchmark; synonyms from CLOUDS' class list
(Benigmim et al., CVPR 2024, released configuration). A label map holds *train ids* 0..18 and
`IGNORE` (255) everywhere in this project; other encodings are translated when a file is read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE = 255
"""The train id of pixels that loss and metrics ignore."""


@dataclass(frozen=True)
class LabelClass:
    """One class of the benchmark.

    Attributes:
        name: Its Cityscapes name.
        train_id: 0..18, the value in label maps.
        cityscapes_id: The id in Cityscapes' (and GTA5's) `labelIds` files.
        color: Its RGB colour in the benchmark's palette, each 0..255.
        thing: True where instances can be counted (cars, people), False for stuff (road, sky).
        synonyms: Its names for the text head.
    """

    name: str
    train_id: int
    cityscapes_id: int
    color: tuple[int, int, int]
    thing: bool
    synonyms: tuple[str, ...]


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


_TABLE: tuple[tuple[str, int, tuple[int, int, int], bool, str], ...] = (
    ("road", 7, (128, 64, 128), False, "road, railroad"),
    ("sidewalk", 8, (244, 35, 232), False, "sidewalk, pavement"),
    ("building", 11, (70, 70, 70), False, "building, buildings, edifice, edifices, house, ceiling"),
    ("wall", 12, (102, 102, 156), False, "wall, walls, brick wall, stone wall, tile wall, wood wall"),
    ("fence", 13, (190, 153, 153), False, "fence, fences"),
    ("pole", 17, (153, 153, 153), False, "pole, poles"),
    ("traffic light", 19, (250, 170, 30), False, "traffic light, traffic lights"),
    ("traffic sign", 20, (220, 220, 0), False, "traffic sign, stop sign"),
    ("vegetation", 21, (107, 142, 35), False, "vegetation, tree, trees, palm tree, bushes"),
    (
        "terrain",
        22,
        (152, 251, 152),
        False,
        "terrain, river, sand, sea, snow, water, mountain, grass, dirt, rock",
    ),
    ("sky", 23, (70, 130, 180), False, "sky, clouds"),
    ("person", 24, (220, 20, 60), True, "person"),
    ("rider", 25, (255, 0, 0), True, "rider"),
    ("car", 26, (0, 0, 142), True, "car, cars"),
    ("truck", 27, (0, 0, 70), True, "truck, trucks"),
    ("bus", 28, (0, 60, 100), True, "bus, buses"),
    ("train", 31, (0, 80, 100), True, "train, trains, locomotive, locomotives, freight train"),
    ("motorcycle", 32, (0, 0, 230), True, "motorcycle, motorcycles"),
    ("bicycle", 33, (119, 11, 32), True, "bicycle, bicycles, bike, bikes"),
)

CLASSES: tuple[LabelClass, ...] = tuple(
    LabelClass(name, train_id, cityscapes_id, color, thing, _words(synonyms))
    for train_id, (name, cityscapes_id, color, thing, synonyms) in enumerate(_TABLE)
)
"""All classes, in the order of their train ids."""

NAMES: tuple[str, ...] = tuple(c.name for c in CLASSES)
NUM_CLASSES = len(CLASSES)

SYNTHIA_16: tuple[str, ...] = tuple(name for name in NAMES if name not in ("terrain", "truck", "train"))
"""The classes that models trained on SYNTHIA are usually compared on."""

SYNTHIA_13: tuple[str, ...] = tuple(name for name in SYNTHIA_16 if name not in ("wall", "fence", "pole"))
"""The smaller set that some papers report too."""

UNKNOWN_ID = 254
"""Entry of a table of train ids for an id that the encoding does not define; never a legal label."""


def palette() -> npt.NDArray[np.uint8]:
    """The benchmark's colours.

    Returns:
        (256, 3) uint8 RGB; row i is the colour of train id i, black for other ids.
    """
    table = np.zeros((256, 3), np.uint8)
    table[:NUM_CLASSES] = [c.color for c in CLASSES]
    return table


def cityscapes_table() -> npt.NDArray[np.uint8]:
    """Table from Cityscapes `labelIds` (0..33) to train ids.

    Returns:
        (256,) uint8: train id for the 19 classes, `IGNORE` for the benchmark's other 15 ids (and for
        255, which is -1, the licence plate, in 8 bits), `UNKNOWN_ID` for ids Cityscapes never defined.
    """
    table = np.full(256, UNKNOWN_ID, np.uint8)
    table[:34] = IGNORE
    table[255] = IGNORE
    for c in CLASSES:
        table[c.cityscapes_id] = c.train_id
    return table


def train_id_table() -> npt.NDArray[np.uint8]:
    """Table from train ids to themselves, which marks all other ids as unknown.

    Returns:
        (256,) uint8: 0..18 and 255 unchanged, `UNKNOWN_ID` for everything else.
    """
    table = np.full(256, UNKNOWN_ID, np.uint8)
    table[:NUM_CLASSES] = np.arange(NUM_CLASSES)
    table[IGNORE] = IGNORE
    return table
