"""Label sets from files: those that ship with the package, and a user's own in YAML or JSON."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from clouds_deploy.bounded import BoundedFastLoader, load_json, load_yaml, read_text
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels.label_set import LabelSet, label_set

SHIPPED = (
    "cityscapes19",
    "cityscapes34",
    "mapillary_v1_2",
    "mapillary_v2",
    "bdd100k",
    "synthia16",
    "camvid11",
    "ade150",
    "voc21",
)
"""Names of the label sets in `sets/`."""
_SUFFIXES = (".yaml", ".yml", ".json")


@lru_cache(maxsize=len(SHIPPED))
def shipped_set(name: str) -> LabelSet:
    """A label set that ships with the package, one of `SHIPPED`."""
    return _read(Path(__file__).parent / "sets" / f"{name}.yaml", name)


def load_label_set(name_or_path: str | Path) -> LabelSet:
    """Reads a label set.

    Args:
        name_or_path: A shipped set's name, or the path of a .yaml or .json file.

    Raises:
        CloudsError: There is no such set or file, or the file is no label set; see `label_set`.
    """
    if name_or_path in SHIPPED:
        return shipped_set(str(name_or_path))
    path = Path(name_or_path)
    if path.suffix.lower() not in _SUFFIXES:
        raise CloudsError(
            f"there is no label set `{name_or_path}`",
            f"{nearest(str(name_or_path), SHIPPED)} Or give the path of a .yaml or .json file.",
        )
    if not path.is_file():
        raise CloudsError(f"there is no label set file {path}", "check the path")
    return _read(path, path.stem)


def chosen_label_set(value: Any) -> LabelSet:
    """A label set from what a recipe or an option says: a name, a path, or the set itself."""
    if isinstance(value, LabelSet):
        return value
    if isinstance(value, (str, Path)):
        return load_label_set(value)
    return label_set(value, "data.classes")


def _read(path: Path, name: str) -> LabelSet:
    text = read_text(path, "label set file")
    lines: list[int] = []
    try:
        if path.suffix.lower() == ".json":
            tree = load_json(text)
        else:
            tree = load_yaml(text, BoundedFastLoader)
            lines = _lines(text)
    except ValueError as error:
        raise CloudsError(
            f"label set file {path} is not valid JSON: {error}", "correct it at the place named"
        ) from error
    except yaml.YAMLError as error:
        raise CloudsError(
            f"label set file {path} is not valid YAML: {error}", "correct it at the place named"
        ) from error
    return label_set(tree, str(path), name, lines)


def _lines(text: str) -> list[int]:
    """Line of each class in a YAML file, from 1; none where there is no list of classes."""
    root = yaml.compose(text, BoundedFastLoader)
    if not isinstance(root, yaml.MappingNode):
        return []
    for key, value in root.value:
        if key.value == "classes" and isinstance(value, yaml.SequenceNode):
            return [node.start_mark.line + 1 for node in value.value]
    return []
