"""The recipes that travel with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml

from clouds_deploy.artifacts import write_text
from clouds_deploy.bounded import load_yaml, read_text
from clouds_deploy.config.export import ExportConfig, SamExportConfig, export_recipe_folder
from clouds_deploy.config.parse import parse
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.sam import SamRecipe
from clouds_deploy.config.section import S
from clouds_deploy.errors import CloudsError, nearest

EXPORT = "export/"
"""Before the name of a shipped recipe of the export: `export/segmenter`, `export/sam`."""


def recipe_folder() -> Path:
    """Folder of the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_recipes"
    return packaged if packaged.is_dir() else package.parent / "training" / "recipes"


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes."""
    return tuple(sorted(path.stem for path in recipe_folder().glob("*.yaml")))


def recipes() -> dict[str, dict[str, str]]:
    """The shipped recipes: `{"recipes": {name: what it is for}}`."""
    return {"recipes": {name: load_any_recipe(name).description for name in recipe_names()}}


def read_recipe(name_or_path: str) -> str:
    """Text of a recipe.

    Args:
        name_or_path: A shipped recipe's name (`export/NAME` is a recipe of the export), or the path of a
            YAML file.

    Raises:
        CloudsError: There is no such recipe or file.
    """
    of_export = name_or_path.startswith(EXPORT)
    folder, name = (export_recipe_folder if of_export else recipe_folder)(), name_or_path.removeprefix(EXPORT)
    shipped = folder / f"{name}.yaml"
    if "/" not in name and shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise CloudsError(f"there is no recipe file {path}", "check the path")
        return read_text(path, "recipe file")
    raise CloudsError(
        f"there is no recipe `{name_or_path}`",
        f"{nearest(name_or_path, recipe_names())} Or give the path of a .yaml file.",
    )


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Reads a segmenter's recipe, puts it on top of its base, and applies overrides.

    `base: NAME` takes every key that a recipe leaves out from the shipped recipe of that name; a base has no
    base itself.

    Raises:
        CloudsError: As for `read_recipe` and `parse`; or there is no such base, or it has one itself.
    """
    return _load(Recipe, name_or_path, overrides)


def load_sam_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> SamRecipe:
    """Reads the recipe of a promptable segmenter; see `load_recipe`."""
    return _load(SamRecipe, name_or_path, overrides)


def load_any_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe | SamRecipe:
    """Reads a recipe of either kind; see `load_recipe`."""
    load = load_sam_recipe if is_sam_recipe(name_or_path) else load_recipe
    return load(name_or_path, overrides)


def _load(kind: type[S], name_or_path: str, overrides: tuple[str, ...]) -> S:
    text = read_recipe(name_or_path)
    tree = _tree(text)
    _find_label_sets(tree, Path(name_or_path))
    base = tree.pop("base", None)
    if base is None:
        return parse(kind, yaml.safe_dump(tree) if tree else text, name_or_path, overrides)
    if base not in recipe_names():
        raise CloudsError(
            f"recipe `{name_or_path}` has base `{base}`, which is no shipped recipe",
            nearest(str(base), recipe_names()),
        )
    below = _tree(read_recipe(base))
    if "base" in below:
        raise CloudsError(
            f"recipe `{name_or_path}` has base `{base}`, which has base `{below['base']}` itself",
            f"use base: {below['base']}, and repeat here what `{base}` changes",
        )
    return parse(kind, yaml.safe_dump(tree), name_or_path, overrides, below)


def _find_label_sets(tree: dict[str, Any], recipe: Path) -> None:
    """Takes label set files that a recipe names from beside it, where they are not in the current folder."""
    data = tree.get("data")
    if not isinstance(data, dict):
        return
    for key in ("classes", "read_as", "val_read_as"):
        named = data.get(key)
        if isinstance(named, str) and not Path(named).is_file() and (recipe.parent / named).is_file():
            data[key] = str(recipe.parent / named)


def is_sam_recipe(name_or_path: str) -> bool:
    """Whether a recipe trains a promptable segmenter (`kind: sam`); errors as `read_recipe`."""
    return _tree(read_recipe(name_or_path)).get("kind") == "sam"


E = TypeVar("E", ExportConfig, SamExportConfig)


def load_export_recipe(name_or_path: str | Path, below: E) -> E:
    """Reads a recipe of the export and puts its keys on top of another one.

    Args:
        name_or_path: A shipped one's name, such as `segmenter`, or the path of a YAML file.
        below: Has the values of the keys that it leaves out.

    Raises:
        CloudsError: There is no such recipe; it holds an unknown key (the nearest is suggested), or a value
            of the wrong type or out of range.
    """
    where = str(name_or_path)
    names = sorted(path.stem for path in export_recipe_folder().glob("*.yaml"))
    if "/" not in where and not where.endswith((".yaml", ".yml")) and where not in names:
        raise CloudsError(
            f"there is no export recipe `{where}`",
            f"{nearest(where, names)} Or give the path of a .yaml file.",
        )
    text = read_recipe(f"{EXPORT}{where}" if where in names else where)
    return parse(type(below), text, where, below=below.model_dump(mode="json"))


def resolve_recipe(
    name_or_path: str, overrides: tuple[str, ...] = ()
) -> Recipe | SamRecipe | ExportConfig | SamExportConfig:
    """Reads a recipe of training, or a shipped one of the export (`export/NAME`), with every default."""
    if not name_or_path.startswith(EXPORT):
        return load_any_recipe(name_or_path, overrides)
    text = read_recipe(name_or_path)
    if name_or_path == SamExportConfig.example:
        return parse(SamExportConfig, text, name_or_path, overrides)
    return parse(ExportConfig, text, name_or_path, overrides)


def _tree(text: str) -> dict[str, Any]:
    """Keys of a YAML text; none if it is no mapping, which `parse` reports."""
    try:
        tree = load_yaml(text)
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, dict) else {}


def copy_recipe(name: str, destination: Path) -> Path:
    """Copies a shipped recipe, to be edited.

    Args:
        name: A shipped recipe.
        destination: A file, or a folder in which the recipe keeps its name.

    Returns:
        The file written.

    Raises:
        CloudsError: No such recipe, or the file exists already.
    """
    text = read_recipe(name)
    target = destination / f"{Path(name).stem}.yaml" if destination.is_dir() else destination
    if target.exists():
        raise CloudsError(f"{target} exists already", "choose another name, or delete it first")
    write_text(target, text)
    return target
