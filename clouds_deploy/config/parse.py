"""Recipes from YAML: read, overridden and checked; errors name the key and the nearest known one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from clouds_deploy.bounded import load_yaml
from clouds_deploy.config.section import S, Section, merged
from clouds_deploy.errors import CloudsError, nearest


def settings(kind: type[S], overrides: tuple[str, ...]) -> S:
    """Returns one section from its defaults and overrides, without a recipe around it.

    Args:
        kind: The section.
        overrides: `dotted.key=value` each, within the section; the value is YAML.

    Raises:
        CloudsError: As `parse` says.
    """
    try:
        return parse(kind, "{}", "", overrides)
    except CloudsError as error:
        keys = ", ".join(known_keys(kind))
        message = error.message.replace(" in recipe ``", "")
        raise CloudsError(message, f"{error.hint.partition(' `clouds-deploy')[0]} keys: {keys}") from error


def parse(
    kind: type[S],
    text: str,
    where: str,
    overrides: tuple[str, ...] = (),
    below: Mapping[str, Any] | None = None,
) -> S:
    """Reads a recipe and applies overrides.

    Args:
        kind: `Recipe`, or another kind of recipe.
        text: YAML.
        where: Name of the recipe in errors: a path, or a shipped recipe's name.
        overrides: `dotted.key=value` each; the value is YAML.
        below: Values of the keys that the text leaves out, before the defaults.

    Raises:
        CloudsError: The text is no YAML or no mapping; a key is unknown (the nearest is suggested); a value
            is of the wrong type or out of range.
    """
    try:
        tree = load_yaml(text)
    except yaml.YAMLError as error:
        raise CloudsError(
            f"recipe `{where}` is not valid YAML: {error}", "correct it at the place named"
        ) from error
    if not isinstance(tree, dict):
        raise CloudsError(
            f"recipe `{where}` holds no keys", f"see `clouds-deploy recipes cat {kind.example}`"
        )
    tree = merged(below or {}, tree)
    for override in overrides:
        _apply(tree, override)
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, kind, where, [o.partition("=")[0] for o in overrides]) from error


def _apply(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise CloudsError(f"override `{override}` is not `key=value`", "for example `train.lr=2e-4`")
    try:
        value = load_yaml(text)
    except yaml.YAMLError as error:
        raise CloudsError(f"the value of override `{override}` is not valid YAML", "quote it") from error
    if isinstance(value, str) and _is_number(value):
        value = float(value)  # YAML 1.1 reads 2e-4 as text
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise CloudsError(
                f"key `{key}` goes through `{parent}`, which is a value", f"set `{parent}` itself"
            )
        node = child
    node[last] = value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def known_keys(section: type[BaseModel], prefix: str = "") -> tuple[str, ...]:
    """Every dotted key that a recipe may hold, for hints and completion."""
    keys: list[str] = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        for kind in (field.annotation, *get_args(field.annotation)):  # a section, or one that may be null
            if isinstance(kind, type) and issubclass(kind, Section):
                keys.extend(known_keys(kind, f"{prefix}{name}."))
    return tuple(keys)


def _explain(
    error: ValidationError, kind: type[Section], where: str, override_keys: list[str]
) -> CloudsError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    key = next((k for k in override_keys if k.startswith(f"{key}.")), key)  # as it was typed
    show = f"`clouds-deploy recipes cat {kind.example}` shows all keys"
    if first["type"] == "extra_forbidden":
        return CloudsError(
            f"unknown key `{key}` in recipe `{where}`", f"{nearest(key, known_keys(kind))} {show}"
        )
    if first["type"] == "missing":
        return CloudsError(f"recipe `{where}` lacks the key `{key}`", f"add it; {show}")
    what = first["msg"].removeprefix("Value error, ")
    value = "" if isinstance(first["input"], (dict, BaseModel)) else f" is `{first['input']}`"
    return CloudsError(f"`{key}`{value} in recipe `{where}`: {what}", show)
