"""GTA5 (Richter et al., Playing for Data, ECCV 2016), as the parts of the download unpack.

Of the 24,966 pairs of the release 62 are left out, as the authors of CLOUDS do: two with an empty image,
and sixty in a row whose image and label map differ in size. What remains is 20,078 pairs of 1914x1052
and 4,826 of 1914x1046. If the release's `split.mat` is in the folder, its parts are splits too, `mat-train`
and so on; the method trains on all.
"""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.data.layouts.content import recognise_encoding
from clouds_deploy.data.layouts.encodings import Encoding, gta5_ids, train_ids
from clouds_deploy.data.layouts.folder import folder_labels, folder_samples, folder_splits
from clouds_deploy.data.layouts.layout import TRAIN_IDS, Layout, Sample
from clouds_deploy.data.layouts.tree import label_stem
from clouds_deploy.errors import CloudsError

LEFT_OUT = frozenset({15188, 17705, *range(20801, 20861)})
"""Numbers of the faulty pairs. Sources: two public readers of GTA5 list the same 62, and 24,966 - 62 is the
number of pairs in the authors' list."""

_MAT = "split.mat"
_MAT_SPLITS = {"mat-train": "trainIds", "mat-val": "valIds", "mat-test": "testIds"}


def _splits(root: Path) -> tuple[str, ...]:
    if not (root / "images").is_dir() or not (root / "labels").is_dir():
        return ()
    return (*folder_splits(root), *(_MAT_SPLITS if (root / _MAT).is_file() else ()))


def _number(stem: str) -> int | None:
    return int(stem) if len(stem) == 5 and stem.isdecimal() else None


def _numbers_of(root: Path, split: str) -> frozenset[int] | None:
    """Numbers of a split's images; None means all."""
    if split not in _MAT_SPLITS:
        return None
    from scipy.io import loadmat

    path = root / _MAT
    try:
        values = loadmat(path)[_MAT_SPLITS[split]]
        return frozenset(int(value) for value in values.ravel())
    except Exception as error:  # scipy raises whatever its parser meets
        raise CloudsError(
            f"{path} does not list `{_MAT_SPLITS[split]}`: {error}",
            "download split.mat again, or use `train`",
        ) from error


def _samples(root: Path, split: str) -> list[Sample]:
    wanted = _numbers_of(root, split)
    samples = []
    for sample in folder_samples(root, split):
        number = _number(sample.image.stem)
        if number not in LEFT_OUT and (wanted is None or number in wanted):
            samples.append(sample)
    return samples


def _labels(root: Path, split: str) -> list[Path]:
    wanted = _numbers_of(root, split)
    maps = []
    for path in folder_labels(root, split):
        number = _number(Path(label_stem(path)).name)
        if number not in LEFT_OUT and (wanted is None or number in wanted):
            maps.append(path)
    return maps


def _left_out(root: Path, split: str) -> list[Path]:
    wanted = _numbers_of(root, split)
    images = [sample.image for sample in folder_samples(root, split)]
    return [
        p for p in images if (number := _number(p.stem)) in LEFT_OUT and (wanted is None or number in wanted)
    ]


def _encoding(path: Path) -> Encoding:
    return train_ids() if path.stem.endswith(TRAIN_IDS) else gta5_ids()


def _recognises(root: Path) -> bool:
    """Distinguishes GTA5 from a plain folder: numbered files that hold GTA5 ids, not train ids."""
    maps = folder_labels(root, "all")
    numbers = {path: _number(Path(label_stem(path)).name) for path in maps}
    numbered = [path for path, number in numbers.items() if number is not None]
    if 2 * len(numbered) < len(maps):
        return False
    unnamed = [p for p in numbered if numbers[p] not in LEFT_OUT and not p.stem.endswith(TRAIN_IDS)]
    unnamed = [path for path in maps if not path.stem.endswith(TRAIN_IDS)]
    known = recognise_encoding(unnamed)
    return known is not None and known is gta5_ids()


GTA5 = Layout(
    "gta5",
    "images/NNNNN.png and labels/NNNNN.png as the parts of the download unpack, labels as GTA5 ids "
    "(or labels/NNNNN_labelTrainIds.png)",
    _splits,
    _samples,
    _labels,
    _encoding,
    _recognises,
    _left_out,
    by_content=True,
)
