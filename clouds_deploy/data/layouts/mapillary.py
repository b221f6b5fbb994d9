"""Mapillary Vistas (Neuhold et al., ICCV 2017), releases v1.2 and v2.0.

The v2.0 release holds both label sets over the same images. Ids are positions in the class list of the
release's `config_v1.2.json` or `config_v2.0.json`; they are looked up there by name. v1.2's list never
changed, so its ids are known without the file. v2.0's file is required: public copies of its list differ
in order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

from clouds_deploy.artifacts import read_json
from clouds_deploy.data.layouts.content import recognise_encoding
from clouds_deploy.data.layouts.encodings import Encoding, names_of, table_of, train_ids
from clouds_deploy.data.layouts.folder import paired
from clouds_deploy.data.layouts.layout import Layout, Sample, first_file
from clouds_deploy.data.layouts.tree import label_maps_inside
from clouds_deploy.errors import CloudsError

_SPLITS = {"train": "training", "val": "validation", "test": "testing"}

V1_CLASSES: dict[str, tuple[int, str]] = {
    "construction--flat--road": (13, "road"),
    "marking--general": (24, "road"),
    "object--manhole": (41, "road"),
    "construction--barrier--curb": (2, "sidewalk"),
    "construction--flat--sidewalk": (15, "sidewalk"),
    "construction--structure--building": (17, "building"),
    "construction--barrier--wall": (6, "wall"),
    "construction--barrier--fence": (3, "fence"),
    "object--support--pole": (45, "pole"),
    "object--support--utility-pole": (47, "pole"),
    "object--traffic-light": (48, "traffic light"),
    "object--traffic-sign--front": (50, "traffic sign"),
    "nature--vegetation": (30, "vegetation"),
    "nature--terrain": (29, "terrain"),
    "nature--sky": (27, "sky"),
    "human--person": (19, "person"),
    "human--rider--bicyclist": (20, "rider"),
    "human--rider--motorcyclist": (21, "rider"),
    "human--rider--other-rider": (22, "rider"),
    "object--vehicle--car": (55, "car"),
    "object--vehicle--truck": (61, "truck"),
    "object--vehicle--bus": (54, "bus"),
    "object--vehicle--on-rails": (58, "train"),
    "object--vehicle--motorcycle": (57, "motorcycle"),
    "object--vehicle--bicycle": (52, "bicycle"),
}
"""v1.2's name -> its id and its Cityscapes class (docs/explanation/method.md 4); all others are ignored."""
_V1_COUNT = 66

_MARKINGS = ("marking--", "marking-only--")
_CROSSWALK = "--crosswalk-zebra"
_FINER = {
    "construction--structure--garage": "building",
    "object--support--pole-group": "pole",
    "object--traffic-sign--direction-front": "traffic sign",
    "object--traffic-sign--information-parking": "traffic sign",
    "object--traffic-sign--temporary-front": "traffic sign",
}
_WHOLE = ("object--traffic-light", "human--person")


def v2_class(name: str) -> str | None:
    """Cityscapes class of a class of v2.0.

    A class that v1.2 has too means the same, and so do those that v1.2's `human--person`,
    `object--traffic-light` and `marking--general` were divided into: all markings are road but zebra
    crossings, which v1.2 keeps apart and the authors' map ignores. For classes unknown to v1.2, Cityscapes'
    definitions decide: garages are buildings, parking and direction signs traffic signs.

    Args:
        name: Its name in `config_v2.0.json`.

    Returns:
        A name of `labels.NAMES`, None for an ignored class.
    """
    if name in V1_CLASSES:
        return V1_CLASSES[name][1]
    if name.startswith(_MARKINGS) and not name.endswith(_CROSSWALK):
        return "road"
    whole = next((known for known in _WHOLE if name.startswith(f"{known}--")), None)
    return V1_CLASSES[whole][1] if whole else _FINER.get(name)


def _v1_class(name: str) -> str | None:
    return V1_CLASSES[name][1] if name in V1_CLASSES else None


@lru_cache(maxsize=8)
def _from_config(path: Path, modified: int, version: str) -> Encoding:
    """Reads a release's class list; `modified` makes the cache reread a changed file."""
    classes_of: Callable[[str], str | None] = _v1_class if version == "v1.2" else v2_class
    config = read_json(path)
    try:
        names = [str(label["name"]) for label in config["labels"]]
    except (KeyError, TypeError) as error:
        raise CloudsError(
            f"{path} lists no class names under `labels`", "take the file from the dataset's archive"
        ) from error
    shown = {i: str(label.get("readable", label["name"])).lower() for i, label in enumerate(config["labels"])}
    unlabeled = {i for i, name in enumerate(names) if name == "void--unlabeled"}
    found = {index: known for index, name in enumerate(names) if (known := classes_of(name)) is not None}
    missing = {known for _, known in V1_CLASSES.values()} - set(found.values())
    if missing or len(names) > 254:
        what = f"has no class for {', '.join(sorted(missing))}" if missing else f"lists {len(names)} classes"
        raise CloudsError(f"{path} {what}", f"take the config file of Mapillary Vistas {version} itself")
    own = {index: name for index, name in shown.items() if index not in unlabeled}
    return Encoding(
        f"Mapillary {version} ids", f"0..{len(names) - 1}", table_of(found, len(names)), names=own
    )


@lru_cache(maxsize=1)
def v1_ids() -> Encoding:
    """Encoding of v1.2 without its config file."""
    table = table_of(dict(V1_CLASSES.values()), _V1_COUNT)
    return Encoding("Mapillary v1.2 ids", f"0..{_V1_COUNT - 1}", table, names=names_of("mapillary_v1_2"))


def _encoding_of(root: Path, version: str) -> Encoding:
    names = ["config_v1.2.json", "config.json"] if version == "v1.2" else ["config_v2.0.json"]
    path = first_file([root / name for name in names])
    if path is not None:
        return _from_config(path, path.stat().st_mtime_ns, version)
    if version == "v1.2":
        return v1_ids()
    raise CloudsError(
        f"{root} has no config_v2.0.json, which defines the ids of v2.0's labels",
        "put it there from the dataset's archive, or use --layout mapillary (v1.2's labels)",
    )


def _label_folder(root: Path, split: str, version: str) -> Path:
    folder = root / _SPLITS.get(split, split)
    inside = folder / version / "labels"
    return folder / "labels" if version == "v1.2" and not inside.is_dir() else inside


def _splits(version: str, root: Path) -> tuple[str, ...]:
    if not any(_label_folder(root, split, version).is_dir() for split in _SPLITS):
        return ()
    return tuple(name for name, folder in _SPLITS.items() if (root / folder / "images").is_dir())


def _samples(version: str, root: Path, split: str) -> list[Sample]:
    _encoding_of(root, version)  # a fault of the class list shows before the first label is read
    return paired(root / _SPLITS[split] / "images", _label_folder(root, split, version))


def _labels(version: str, root: Path, split: str) -> list[Path]:
    return label_maps_inside(_label_folder(root, split, version))


def _recognises(version: str, root: Path) -> bool:
    """Distinguishes a release from a plain folder whose splits have the same names: no map of train ids."""
    maps = [path for split in _SPLITS for path in _labels(version, root, split)]
    return recognise_encoding(maps) is not train_ids()


def _encoding(version: str, path: Path) -> Encoding:
    inside = path.parent.parent  # of `labels`
    return _encoding_of(inside.parent.parent if inside.name == version else inside.parent, version)


def _layout(name: str, version: str, expects: str) -> Layout:
    return Layout(
        name,
        expects,
        partial(_splits, version),
        partial(_samples, version),
        partial(_labels, version),
        partial(_encoding, version),
        partial(_recognises, version),
    )


MAPILLARY = _layout(
    "mapillary",
    "v1.2",
    "training|validation/images/*.jpg and training|validation/labels/*.png "
    "(or training|validation/v1.2/labels/*.png, as in the v2.0 release)",
)
MAPILLARY_V2 = _layout(
    "mapillary-v2",
    "v2.0",
    "training|validation/images/*.jpg, training|validation/v2.0/labels/*.png and config_v2.0.json",
)
