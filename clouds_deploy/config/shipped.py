"""The recipes that travel with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from clouds_deploy.artifacts import write_text
from clouds_deploy.config.parse import parse, parse_recipe
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.sam import SamRecipe
from clouds_deploy.errors import CloudsError, nearest


def recipe_folder() -> Path:
    """Find the shipped recipes: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parents[1]
    packaged = package / "_recipes"
    return packaged if packaged.is_dir() else package.parent / "training" / "recipes"


def recipe_names() -> tuple[str, ...]:
    """List the names of the shipped recipes."""
    return tuple(sorted(path.stem for path in recipe_folder().glob("*.yaml")))


def recipes() -> dict[str, dict[str, str]]:
    """The shipped recipes: `{"recipes": {name: what it is for}}`."""
    return {"recipes": {name: load_any_recipe(name).description for name in recipe_names()}}


def read_recipe(name_or_path: str) -> str:
    """Read a recipe's text.

    Args:
        name_or_path: A shipped recipe's name, or the path of a YAML file.

    Raises:
        CloudsError: There is no such recipe or file.
    """
    shipped = recipe_folder() / f"{name_or_path}.yaml"
    if "/" not in name_or_path and shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        if not path.is_file():
            raise CloudsError(f"there is no recipe file {path}", "check the path")
        try:
            return path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError) as error:
            raise CloudsError(
                f"recipe file {path} cannot be read: {error}", "save it as UTF-8 text"
            ) from error
    raise CloudsError(
        f"there is no recipe `{name_or_path}`",
        f"{nearest(name_or_path, recipe_names())} Or give the path of a .yaml file.",
    )


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe, put it on top of its base, override and check it.

    `base: NAME` takes every key a recipe leaves out from the shipped recipe of that name; a base has no base.

    Raises:
        CloudsError: As `read_recipe` and `parse_recipe` say; or there is no such base, or it has one itself.
    """
    text = read_recipe(name_or_path)
    tree = _tree(text)
    base = tree.pop("base", None)
    if base is None:
        return parse_recipe(text, name_or_path, overrides)
    if base not in recipe_names():
        raise CloudsError(
            f"recipe `{name_or_path}` has base `{base}`, which is no shipped recipe",
            nearest(str(base), recipe_names()),
        )
    below = _tree(read_recipe(base))
    if "base" in below:
        raise CloudsError(
            f"recipe `{name_or_path}` has base `{base}`, which has base `{below['base']}` itself",
            f"take base: {below['base']}, and say here what `{base}` changes",
        )
    return parse_recipe(yaml.safe_dump(_onto(below, tree), sort_keys=False), name_or_path, overrides)


def is_sam_recipe(name_or_path: str) -> bool:
    """Say whether a recipe trains a promptable segmenter (`kind: sam`).

    Raises:
        CloudsError: As `read_recipe` says.
    """
    return _tree(read_recipe(name_or_path)).get("kind") == "sam"


def load_sam_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> SamRecipe:
    """Read the recipe of a promptable segmenter.

    Raises:
        CloudsError: As `read_recipe` and `parse_recipe` say.
    """
    return parse(SamRecipe, read_recipe(name_or_path), name_or_path, overrides)


def load_any_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe | SamRecipe:
    """Read a recipe of either kind; see `load_recipe` and `load_sam_recipe`."""
    load = load_sam_recipe if is_sam_recipe(name_or_path) else load_recipe
    return load(name_or_path, overrides)


def _tree(text: str) -> dict[str, Any]:
    """Read YAML; nothing when it is none, which `parse_recipe` says better."""
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError:
        return {}
    return tree if isinstance(tree, dict) else {}


def _onto(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Put one tree on top of another: sections are merged, values replaced."""
    both = dict(below)
    for key, value in above.items():
        under = both.get(key)
        both[key] = _onto(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return both


def copy_recipe(name: str, destination: Path) -> Path:
    """Copy a shipped recipe to edit it.

    Args:
        name: A shipped recipe.
        destination: A file, or a folder that the recipe keeps its name in.

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
