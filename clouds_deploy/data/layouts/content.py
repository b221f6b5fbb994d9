"""Recognition of label maps by their content: train ids, or the ids of Cityscapes and GTA5.

The two encodings share their first numbers, so that a map read by the wrong one gives wrong classes without
an error. Maps of Cityscapes' ids hold ids above 18 (vegetation is 21, sky 23, car 26); maps of train ids
hold none, and most of their pixels would be void as Cityscapes' ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from clouds_deploy.data.images import DECODER_FAULTS, FORMATS, read_label_ids
from clouds_deploy.data.layouts.encodings import Encoding, gta5_ids, train_ids
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CLASSES, IGNORE, NUM_CLASSES

LOOKED_AT = 16
"""Label maps that are looked at, evenly spaced among those there are."""


def recognise_encoding(paths: Sequence[Path]) -> Encoding | None:
    """Encoding of label maps of one kind, recognised by values and palettes.

    Args:
        paths: The label maps; `LOOKED_AT` of them are read.

    Returns:
        `train_ids()` or `gta5_ids()`; None where the content allows both, or neither.
    """
    chosen = [paths[i] for i in np.linspace(0, len(paths) - 1, min(LOOKED_AT, len(paths))).astype(int)]
    counts, above, looked, palettes = np.zeros(256, np.int64), 0, 0, set()
    for path in chosen:
        try:
            ids = read_label_ids(path)
        except CloudsError:
            continue  # a broken file proves nothing; `data check` names it
        found = np.bincount(ids.ravel(), minlength=256)
        if found[len(_IDS) : IGNORE].any():
            continue  # of neither encoding; reading it will name the id
        looked += 1
        counts += found
        above += bool(found[NUM_CLASSES : len(_IDS)].any())
        palettes.add(_by_palette(path))
    if not looked:
        return None
    labelled = counts[:IGNORE].sum()
    valid = counts[: len(_IDS)][_IDS].sum() / max(labelled, 1)
    known = palettes.pop() if len(palettes) == 1 else None
    if known is not None and not (above and known is train_ids()):
        return known
    if above:
        return gta5_ids() if 2 * above >= looked and valid >= 0.5 else None
    return train_ids() if labelled and valid < 0.5 else None


_IDS = gta5_ids().table[:35] != IGNORE
"""Which of the ids 0..34 of Cityscapes and GTA5 are classes."""


def is_label_map(path: Path) -> bool:
    """Whether an image file holds class ids rather than a photograph.

    Such a file has one channel, few values, and most pixels equal their neighbour on the right; a grey
    photograph has noise. A file that cannot be read is none.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.mode not in ("L", "P", "I", "I;16") or image.format == "JPEG":
                return False
        ids = read_label_ids(path)
    except (CloudsError, Image.DecompressionBombError, *DECODER_FAULTS):
        return False
    few = int(np.count_nonzero(np.bincount(ids.ravel()))) <= _MOST_CLASSES
    return few and ids.shape[1] > 1 and float((ids[:, 1:] == ids[:, :-1]).mean()) > 0.8


_MOST_CLASSES = 151
"""Classes of the largest label set that is met often, with the void."""


def _by_palette(path: Path) -> Encoding | None:
    """Encoding by the colour of road in a file's palette, None without one."""
    road = CLASSES[0]
    try:
        with Image.open(path, formats=FORMATS) as image:
            colors = image.getpalette("RGB") if image.mode == "P" else None
    except (Image.DecompressionBombError, *DECODER_FAULTS):
        return None
    for index, encoding in ((road.cityscapes_id, gta5_ids()), (road.train_id, train_ids())):
        if colors is not None and tuple(colors[3 * index : 3 * index + 3]) == road.color:
            return encoding
    return None
