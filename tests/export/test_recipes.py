"""Export recipes: the shipped files hold every default, a run and `--recipe` override single keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from clouds_deploy.config.export import ExportConfig, ExportOptions, SamExportConfig, export_recipe_folder
from clouds_deploy.config.parse import known_keys
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.shipped import load_export_recipe, resolve_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.segmenter import SegmenterSubject

KINDS = {"segmenter": ExportConfig, "sam": SamExportConfig}


def flat(tree: dict[str, Any], prefix: str = "") -> set[str]:
    keys = {f"{prefix}{key}" for key in tree}
    return keys.union(*(flat(v, f"{prefix}{k}.") for k, v in tree.items() if isinstance(v, dict)))


@pytest.mark.parametrize("name", KINDS)
def test_the_shipped_file_holds_every_default_and_the_code_none(name: str) -> None:
    kind = KINDS[name]
    shipped = yaml.safe_load((export_recipe_folder() / f"{name}.yaml").read_text())
    assert flat(shipped) == set(known_keys(kind))
    assert all(field.is_required() for field in kind.model_fields.values())
    assert kind().model_dump(mode="json") == shipped
    assert resolve_recipe(f"export/{name}") == kind()


def test_a_training_recipe_overrides_single_keys() -> None:
    recipe = Recipe.model_validate({"name": "a", "export": {"height": 64, "fp16": {"cosine": 0.5}}})
    assert (recipe.export.height, recipe.export.width, recipe.export.fp16.cosine) == (64, 1024, 0.5)
    assert recipe.export.fp16.islands == ExportConfig().fp16.islands


def test_a_file_overrides_the_run_and_the_command_overrides_both(tmp_path: Path, small_run: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("width: 256\nint8: {images: 3}\nengine: {batch: [1, 2, 4]}\n")
    options = ExportOptions(recipe=mine, height=96)
    limits = SegmenterSubject(small_run, options, "cpu").limits
    assert (limits.height, limits.width, limits.int8.images, limits.engine.batch) == (96, 256, 3, (1, 2, 4))
    shipped = SegmenterSubject(small_run, ExportOptions(recipe="segmenter"), "cpu").limits
    assert shipped == ExportConfig()  # it has every key, so nothing of the run's is left


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp16: {cosin: 0.9}", "unknown key `fp16.cosin`.*did you mean `fp16.cosine`"),
        ("cosine: 2", "`cosine` is `2`"),
        ("height: 100", "not a multiple of 32"),
        ("[1]", "holds no keys"),
        ("a: [", "not valid YAML"),
    ],
)
def test_faults_name_the_key_and_the_file(tmp_path: Path, text: str, message: str) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(text)
    with pytest.raises(CloudsError, match=str(mine)) as caught:
        load_export_recipe(mine, ExportConfig())
    assert re.search(message, f"{caught.value.message} {caught.value.hint}")


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(CloudsError, match="no export recipe `segmentr`") as caught:
        load_export_recipe("segmentr", ExportConfig())
    assert "`segmenter`" in caught.value.hint
    with pytest.raises(CloudsError, match="no recipe file"):
        load_export_recipe("missing.yaml", ExportConfig())
