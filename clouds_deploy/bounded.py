"""YAML and JSON texts that people hand in (recipes, label sets, overrides), bounded before they are built.

Both formats let a few bytes stand for much: aliases that repeat what repeats, brackets within brackets,
numbers of thousands of digits. The documents of bundles have closer limits of their own
(`artifacts/documents.py`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from clouds_deploy.errors import CloudsError, first_line

LARGEST = 4 << 20
"""Characters of a text."""
DEEPEST = 64
"""Lists and mappings within each other."""
VALUES = 200_000
"""Values of a YAML text, those counted again that an alias repeats."""


class BoundedLoader(yaml.SafeLoader):
    """Builds plain values, with PyYAML's own scanner: its errors show the line."""


BoundedFastLoader: type[Any] = (
    type("BoundedFastLoader", (yaml.CSafeLoader,), {}) if hasattr(yaml, "CSafeLoader") else BoundedLoader
)
"""The same by libyaml where PyYAML has it, ten times as fast."""


def _scalar(build: Any) -> Any:
    """A constructor whose faults name their place: a number that is too long, a thirteenth month."""

    def built(loader: Any, node: Any) -> Any:
        try:
            return build(loader, node)
        except (ValueError, KeyError, IndexError, OverflowError, TypeError) as error:
            raise yaml.constructor.ConstructorError(None, None, first_line(error), node.start_mark) from error

    return built


for _loader in (BoundedLoader, BoundedFastLoader):
    for _kind in ("int", "float", "timestamp", "bool", "binary"):
        _tag = f"tag:yaml.org,2002:{_kind}"
        _loader.add_constructor(_tag, _scalar(yaml.SafeLoader.yaml_constructors[_tag]))


def load_yaml(text: str, loader: type[Any] = BoundedLoader) -> Any:
    """Values of a YAML text.

    Args:
        text: The text.
        loader: `BoundedLoader`, or `BoundedFastLoader` for long ones.

    Raises:
        yaml.YAMLError: It is no YAML, has a value that cannot be, or more of anything than the limits of this
            module; an alias stands within what it repeats.
    """
    check_yaml(text, loader)
    return yaml.load(text, loader)


def check_yaml(text: str, loader: type[Any] = BoundedLoader) -> None:
    """Refuses a YAML text that is too large, without building its values; errors as `load_yaml`."""
    if len(text) > LARGEST:
        raise yaml.YAMLError(f"it is longer than {LARGEST >> 20} Mi characters")
    sizes, names, known = [0], [""], dict[str, int]()
    for event in yaml.parse(text, loader):
        if isinstance(event, yaml.CollectionStartEvent):
            sizes.append(1)
            names.append(event.anchor or "")
            if event.anchor:
                known[event.anchor] = 0  # open: an alias in it would have no end
            if len(sizes) > DEEPEST + 1:
                raise _fault(f"it is nested over {DEEPEST} deep", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, name = sizes.pop(), names.pop()
            sizes[-1] += size
            if name:
                known[name] = size
        elif isinstance(event, yaml.ScalarEvent):
            sizes[-1] += 1
            if event.anchor:
                known[event.anchor] = 1
        elif isinstance(event, yaml.AliasEvent):
            size = known.get(event.anchor or "", 1)
            if not size:
                raise _fault(f"the alias `{event.anchor}` stands within what it repeats", event)
            sizes[-1] += size
        if sum(sizes) > VALUES:
            raise _fault(f"it has over {VALUES} values", event)


def _fault(what: str, event: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, what, event.start_mark)


def load_json(text: str | bytes) -> Any:
    """Values of a JSON text.

    Raises:
        ValueError: It is no JSON, or nested deeper than can be read, or a number in it is too long.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def read_text(path: Path, what: str) -> str:
    """Text of a file that a person wrote.

    Args:
        path: The file.
        what: What it is, for messages.

    Raises:
        CloudsError: It cannot be read, is no UTF-8, or larger than any such text.
    """
    try:
        with path.open("rb") as file:
            data = file.read(4 * LARGEST + 1)
        if len(data) > 4 * LARGEST:
            raise ValueError(f"it is larger than {4 * LARGEST >> 20} MiB")
        return data.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    except (ValueError, OSError) as error:
        raise CloudsError(f"{what} {path} cannot be read: {error}", "save it as UTF-8 text") from error
