"""The published settings (docs/explanation/method.md 3.2 to 3.6), and recipes on top of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from clouds_deploy.artifacts import write_text
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.config.parse import known_keys
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.shipped import (
    copy_recipe,
    load_recipe,
    load_sam_recipe,
    recipe_folder,
    recipe_names,
)
from clouds_deploy.errors import CloudsError


@dataclass(frozen=True)
class Source:
    layout: str
    base_size: tuple[int, int]
    warm_up: int
    joint: int
    lr: float
    schedule: str
    eval_every: int
    generated_repeat: float


SOURCES = {
    "gta": Source("gta5", (1052, 1914), 40_000, 40_000, 1e-5, "constant", 4000, 2.0),
    "synthia": Source("synthia", (760, 1280), 30_000, 30_000, 1e-5, "poly", 1500, 0.7),
    "cityscapes": Source("cityscapes", (1024, 2048), 5_000, 10_000, 1e-4, "constant", 500, 0.2),
}
BACKBONES = {
    "convnext_l": ("open_clip/convnext_large_d_320", "laion2b_s29b_b131k_ft_soup"),
    "rn50": ("open_clip/RN50", "openai"),
    "rn101": ("open_clip/RN101", "openai"),
    "mit_b5": ("segformer/mit_b5", "default"),
}
SETTINGS = [
    (source, backbone)
    for source in SOURCES
    for backbone in BACKBONES
    if backbone != "mit_b5" or source == "synthia"
]
# average mIoU over Cityscapes, BDD100K and Mapillary, of the joint stage
PUBLISHED = {
    "gta_convnext_l": "61.5",
    "gta_rn50": "53.3",
    "gta_rn101": "54.7",
    "synthia_convnext_l": "52.1",
    "synthia_rn50": "43.9",
    "synthia_rn101": "46.5",
    "synthia_mit_b5": "41.4",
}


def test_every_published_setting_has_both_stages_and_nothing_else_is_there() -> None:
    published = {f"{source}_{backbone}{stage}" for source, backbone in SETTINGS for stage in ("", "_joint")}
    assert set(recipe_names()) - published == {"tiny", "tiny_joint", "sam_tiny"}
    assert published <= set(recipe_names())


@pytest.mark.parametrize(("source", "backbone"), SETTINGS)
@pytest.mark.parametrize("joint", [False, True])
def test_the_published_constants(source: str, backbone: str, joint: bool) -> None:
    name = f"{source}_{backbone}" + ("_joint" if joint else "")
    recipe = load_recipe(name)
    facts = SOURCES[source]
    train, augment, model = recipe.train, recipe.augment, recipe.model
    assert recipe.name == name
    assert (model.backbone.name, model.backbone.weights) == BACKBONES[backbone]
    assert (model.backbone.trainable, model.head, model.width) == (False, "linear", 256)
    assert train.steps == (facts.joint if joint else facts.warm_up)
    assert (train.lr, train.schedule, train.warmup_steps) == (facts.lr, facts.schedule, 0)
    assert (train.batch_size, train.weight_decay, train.clip_norm, train.precision) == (8, 0.05, 0.01, "fp32")
    assert train.eval_every == facts.eval_every
    assert (train.loss.class_weight, train.loss.mask_weight, train.loss.dice_weight) == (2, 5, 5)
    assert (train.loss.void_weight, train.loss.points) == (0.1, 12544)
    assert (augment.crop, augment.base_size, augment.scale) == ((768, 768), facts.base_size, (0.5, 2.0))
    assert (augment.color_jitter, augment.flip) == (True, 0.5)
    assert (recipe.data.layout, recipe.data.val_layout or "cityscapes") == (facts.layout, "cityscapes")
    assert (recipe.evaluate.short_side, recipe.evaluate.metric) == (1024, "official")
    assert (recipe.joint is not None) == joint
    if recipe.joint is not None:
        assert (recipe.joint.source_repeat, recipe.joint.generated_repeat) == (1.0, facts.generated_repeat)
        assert (recipe.joint.ema_decay, recipe.joint.ema_every) == (0.999, 100)
        assert recipe.joint.pseudo_labels == "online"
        assert recipe.joint.refine == RefineConfig(mode="official")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_result_stands_beside_the_recipe(name: str) -> None:
    text = (recipe_folder() / f"{name}_joint.yaml").read_text(encoding="utf-8")
    assert "Published mIoU" in text
    assert PUBLISHED[name] in text


def test_the_refinement_is_the_published_one() -> None:
    refine = RefineConfig(mode="official")
    assert (refine.seed, refine.erosion) == (0, 0)
    assert (refine.min_area, refine.reference_size, refine.points) == (5000, (768, 768), 5)
    assert refine.multimask
    assert refine.remove_intersections


def test_a_recipe_takes_from_its_base_what_it_leaves_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    write_text(path, "name: mine\nbase: tiny\ntrain: {steps: 7, loss: {points: 5}}\n")
    recipe, base = load_recipe(str(path), ("train.lr=1e-3",)), load_recipe("tiny")
    assert (recipe.name, recipe.train.steps, recipe.train.loss.points, recipe.train.lr) == (
        "mine",
        7,
        5,
        1e-3,
    )
    assert recipe.model == base.model
    assert recipe.train.loss.dice_weight == base.train.loss.dice_weight
    assert "base:" not in recipe.to_yaml()


@pytest.mark.parametrize(
    ("base", "message", "hint"),
    [
        ("tinny", "no shipped recipe", "`tiny`"),
        ("3", "no shipped recipe", "known"),
        ("[tiny]", "no shipped recipe", "tiny"),
        ("gta_rn50", "which has base `gta_convnext_l` itself", "base: gta_convnext_l"),
    ],
)
def test_a_wrong_base_is_named(base: str, message: str, hint: str, tmp_path: Path) -> None:
    write_text(tmp_path / "mine.yaml", f"name: mine\nbase: {base}\n")
    with pytest.raises(CloudsError, match=message) as caught:
        load_recipe(str(tmp_path / "mine.yaml"))
    assert hint in caught.value.hint


def test_a_copied_recipe_keeps_its_base(tmp_path: Path) -> None:
    path = copy_recipe("synthia_rn50_joint", tmp_path)
    assert load_recipe(str(path)) == load_recipe("synthia_rn50_joint")


def test_keys_of_the_joint_stage_are_known_and_strict() -> None:
    assert {"joint", "joint.ema_decay", "joint.refine.points"} <= set(known_keys(Recipe))
    assert load_recipe("gta_rn50_joint", ("joint.refine=null",)).joint.refine is None  # type: ignore[union-attr]
    with pytest.raises(CloudsError, match=r"unknown key `joint.ema_decai`") as caught:
        load_recipe("gta_rn50_joint", ("joint.ema_decai=0.9",))
    assert "`joint.ema_decay`" in caught.value.hint
    with pytest.raises(CloudsError, match=r"joint.generated_repeat"):
        load_recipe("gta_rn50_joint", ("joint.generated_repeat=0",))


def test_a_wrong_key_of_a_sam_names_a_recipe_of_its_kind() -> None:
    with pytest.raises(CloudsError, match=r"unknown key `train.stepz`") as caught:
        load_sam_recipe("sam_tiny", ("train.stepz=1",))
    assert "`train.steps`" in caught.value.hint
    assert "`clouds-deploy recipes cat sam_tiny`" in caught.value.hint


def test_kinds_of_a_sams_steps_are_at_most_all_steps() -> None:
    load_sam_recipe("sam_tiny", ("train.frames=0.5", "train.wide=0.5"))
    with pytest.raises(CloudsError, match=r"frames 0.9 and wide 0.2 are more than all steps together"):
        load_sam_recipe("sam_tiny", ("train.frames=0.9", "train.wide=0.2"))
