from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clouds_deploy.config.parse import known_keys, parse
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.shipped import (
    copy_recipe,
    load_any_recipe,
    load_recipe,
    read_recipe,
    recipe_names,
)
from clouds_deploy.errors import CloudsError


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid_and_survives_a_round_trip(name: str) -> None:
    recipe = load_any_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert parse(type(recipe), recipe.to_yaml(), "again") == recipe


def test_defaults_are_the_published_model() -> None:
    recipe = Recipe(name="x")
    assert (recipe.model.width, recipe.model.pixel_decoder.layers, recipe.model.mask_decoder.queries) == (
        256,
        6,
        100,
    )
    assert (recipe.train.lr, recipe.train.clip_norm, recipe.train.loss.points) == (1e-5, 0.01, 12544)


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("traln.lr=2e-4", "unknown key `traln.lr`", "`train.lr`"),
        ("train.lrr=1", "unknown key `train.lrr`", "`train.lr`"),
        ("train.lr=fast", "`train.lr` is `fast`", "recipes cat"),
        ("train.lr=-1", "`train.lr` is `-1`", "recipes cat"),
        ("train.steps=0", "greater than 0", "recipes cat"),
        ("augment.crop=[100,256]", "multiple of 32", "recipes cat"),
        ("model.width=96.5", "`model.width`", "recipes cat"),
        ("model.width=48", "not a multiple of 32", "recipes cat"),
        ("train", "not `key=value`", "train.lr"),
        ("train.lr.x=1", "goes through `lr`", "`lr`"),
        ("train.lr=.nan", "`train.lr`", "recipes cat"),
    ],
)
def test_a_wrong_override_is_named_with_its_fix(override: str, message: str, hint: str) -> None:
    with pytest.raises(CloudsError) as caught:
        load_recipe("tiny", (override,))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_overrides_are_yaml() -> None:
    recipe = load_recipe("tiny", ("train.lr=2e-4", "augment.scale=[0.5, 1]", "data.root=null", "seed=3"))
    assert recipe.train.lr == 2e-4
    assert recipe.augment.scale == (0.5, 1.0)
    assert recipe.data.root is None
    assert recipe.seed == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [", "not valid YAML"), ("- 1", "holds no keys"), ("seed: 1", "lacks the key `name`")],
)
def test_a_broken_recipe_is_named(text: str, message: str) -> None:
    with pytest.raises(CloudsError, match=message) as caught:
        parse(Recipe, text, "mine.yaml")
    assert "mine.yaml" in caught.value.message


def test_an_unknown_recipe_names_its_neighbour() -> None:
    with pytest.raises(CloudsError) as caught:
        read_recipe("tinny")
    assert "`tiny`" in caught.value.hint
    with pytest.raises(CloudsError, match="no recipe file"):
        read_recipe("somewhere/mine.yaml")


def test_copy_and_edit(tmp_path: Path) -> None:
    path = copy_recipe("tiny", tmp_path)
    assert path == tmp_path / "tiny.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["train"]["steps"] = 7
    path.write_text(yaml.safe_dump(tree))
    assert load_recipe(str(path)).train.steps == 7
    with pytest.raises(CloudsError, match="exists already"):
        copy_recipe("tiny", tmp_path)


def test_recipes_are_frozen_and_every_key_is_known() -> None:
    recipe = load_recipe("tiny")
    with pytest.raises(Exception, match="frozen"):
        recipe.seed = 4  # type: ignore[misc]
    assert {"model.backbone.weights", "train.loss.points", "data.val_layout"} <= set(known_keys(Recipe))
