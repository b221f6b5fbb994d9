"""Options that a recipe passes on to a library: listed ones of their types, and nothing else."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.config.library_options import (
    ClipTextOptions,
    ClipVisionOptions,
    OpenClipOptions,
    SegformerOptions,
)
from clouds_deploy.config.model import BackboneConfig, TextConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.store import RECIPE, read_run_recipe
from clouds_deploy.models.libraries import library
from tests.cpp.toy import change_facts, write_toy

EVIL: list[tuple[str, dict[str, Any]]] = [
    ("open_clip/RN50", {"pretrained_image_path": "evil.pth", "weights_only": False}),
    ("open_clip/RN50", {"weights_only": False}),
    ("open_clip/RN50", {"pretrained_text_path": "evil.pth"}),
    ("open_clip/RN50", {"cache_dir": "/tmp/evil"}),
    ("open_clip/RN50", {"text_cfg": {"hf_model_name": "evil/model"}}),
    ("open_clip/RN50", {"text_cfg": {"hf_tokenizer_name": "evil/model"}}),
    ("open_clip/RN50", {"vision_cfg": {"timm_model_name": "hf-hub:evil/model"}}),
    ("open_clip/RN50", {"vision_cfg": {"timm_model_name": "local-dir:evil"}}),
    ("open_clip/RN50", {"vision_cfg": {"timm_model_pretrained": True}}),
    ("timm/resnet18", {"checkpoint_path": "evil.pth"}),
    ("timm/resnet18", {"pretrained_cfg": {"file": "evil.pth"}}),
    ("timm/resnet18", {"pretrained_cfg_overlay": {"file": "evil.pth"}}),
    ("timm/resnet18", {"pretrained": True}),
    ("dinov2/s", {"embed_layer": "os.system"}),
    ("dinov3/s", {"depth": 1 << 40}),
    ("dinov3/s", {"depth": "2"}),
    ("timm/vit_tiny_patch16_224", {"depth": True}),
    ("timm/vit_tiny_patch16_224", {"mlp_ratio": float("nan")}),
    ("timm/resnet18", {"layers": [1] * 100}),
    ("segformer/mit_b0", {"dtype": "evil"}),
    ("segformer/mit_b0", {"hidden_act": "../evil"}),
    ("efficientnet_lite0", {"weights_only": False}),
]


@pytest.mark.parametrize(("name", "options"), EVIL)
def test_an_option_that_is_not_listed_is_refused(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Where a recipe is parsed, and where a run is opened; of the text tower as of the backbone."""
    import yaml

    tree = {"name": "x", "model": {"backbone": {"name": name, "weights": "random", "options": options}}}
    (tmp_path / RECIPE).write_text(yaml.safe_dump(tree))
    for read in (lambda: load_recipe(str(tmp_path / RECIPE)), lambda: read_run_recipe(tmp_path)):
        with pytest.raises(CloudsError, match=r"model\.backbone\.options") as caught:
            read()
        assert max(options, key=len) in caught.value.message or "no options" in caught.value.message
    with pytest.raises(ValueError, match="option"):
        TextConfig(clip=name, options=options)


def test_a_bundle_is_refused_for_the_options_in_it(tmp_path: Path) -> None:
    recipe = Recipe(name="x").model_dump(mode="json")
    recipe["model"]["backbone"] |= {"name": EVIL[0][0], "options": EVIL[0][1]}
    change_facts(write_toy(tmp_path / "toy"), recipe=recipe)
    with pytest.raises(CloudsError, match="pretrained_image_path"):
        open_bundle(tmp_path / "toy")


def test_an_unknown_option_is_told_with_the_nearest_one() -> None:
    with pytest.raises(ValueError, match=r"`vision_cfg\.widht` is no option of .*did you mean `width`"):
        BackboneConfig(name="open_clip/RN50", options={"vision_cfg": {"widht": 3}})


def test_the_lists_name_fields_that_the_libraries_have() -> None:
    library("open_clip")
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    for listed, theirs in ((ClipVisionOptions, CLIPVisionCfg), (ClipTextOptions, CLIPTextCfg)):
        assert set(listed.model_fields) <= {field.name for field in dataclasses.fields(theirs)}
    config = library("transformers").SegformerConfig()
    assert all(hasattr(config, name) for name in SegformerOptions.model_fields)
    assert not {"weights_only", "pretrained_image_path", "cache_dir"} & set(OpenClipOptions.model_fields)
