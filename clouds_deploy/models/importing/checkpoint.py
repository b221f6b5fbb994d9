"""Conversion of a foreign checkpoint to a run directory, and back, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from clouds_deploy.artifacts import atomic_directory, read_manifest, sha256, write_manifest, write_text
from clouds_deploy.config.export import ExportConfig
from clouds_deploy.config.model import BackboneConfig, MaskDecoderConfig, ModelConfig
from clouds_deploy.config.recipe import DataConfig, EvaluateConfig, Recipe
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import LabelSet, chosen_label_set
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import (
    FROZEN,
    KIND,
    RECIPE,
    TRAINED,
    read_tensors,
    read_weights,
    split_state,
    write_tensors,
)
from clouds_deploy.models.importing.detect import (
    Head,
    clip_on_meta,
    detect_backbone,
    detect_head,
    published_weights,
)
from clouds_deploy.models.importing.hollow import hollow_segmenter, own_vocabulary
from clouds_deploy.models.importing.layout import official_layout, require
from clouds_deploy.models.importing.names import CLIP, OLD_QUERIES, QUERIES, join, official_parts, split
from clouds_deploy.models.weights import read_weight_file, shapes_of

ASIDE = "clip.safetensors"
"""Tensors of a checkpoint that a segmenter does not use, under their official names."""

DROPPED = ("sem_seg_head_ema.", "sam.sam.")
"""Prefixes of the teacher and SAM, which a checkpoint may hold from its training; not part of the model."""


def import_checkpoint(
    checkpoint: str | Path,
    *,
    out: str | Path,
    recipe: str | Path | Recipe | None = None,
    skip_backbone: bool = False,
    classes: str | Path | LabelSet | None = None,
) -> dict[str, Any]:
    """Imports a checkpoint of CLOUDS, FC-CLIP or Mask2Former as a run.

    Every tensor is accounted for by name; nothing is written unless all fit. No tensor is loaded into a
    network, so a checkpoint mapped into memory needs the memory of one weight file.

    Args:
        checkpoint: The weight file; see `read_weight_file`.
        out: The run's folder.
        recipe: Of the checkpoint's model, where that is not a published one: a recipe, a shipped one's
            name, or a YAML file; its `model` section is binding, and the run keeps the rest.
            None detects head, backbone and number of queries.
        skip_backbone: Import the head of a checkpoint whose backbone is not one of ours (Mask2Former's
            ResNet and Swin); the recipe's backbone then takes its place, with the weights named there.
        classes: Label set that the checkpoint was trained on: a shipped one's name, a file, or the set. None
            means the recipe's, `cityscapes19` without one.

    Returns:
        `run`, `file`, `sha256`, `head`, `backbone`, `label_set`, `tensors` (in the file), `used`,
        `kept_aside`, and the names `dropped`, `skipped` and `renamed`.

    Raises:
        CloudsError: The file can't be read; it is no such checkpoint; it does not fit, with every missing,
            unexpected and misshapen name; its backbone is not supported; `out` exists.
    """
    path, out = Path(checkpoint), Path(out)
    if recipe is not None and not isinstance(recipe, Recipe):
        recipe = load_recipe(str(recipe))
    found = read_weight_file(path)
    state = {name: tensor for name, tensor in found.items() if not name.startswith(DROPPED)}
    dropped = sorted(found.keys() - state.keys())
    renamed: dict[str, str] = {}
    if OLD_QUERIES in state and QUERIES not in state:
        state[QUERIES] = state.pop(OLD_QUERIES)
        renamed[QUERIES] = OLD_QUERIES
    head = detect_head(state)
    skipped = _foreign_backbone(state, path, recipe, skip_backbone)
    for name in skipped:
        del state[name]
    has_clip = any(name.startswith(CLIP) for name in state)
    recipe = recipe or Recipe(
        name="official",
        description=f"imported from {path.name}",
        model=_detect_model(state, head),
        data=DataConfig(layout="cityscapes", val_images=None),
        evaluate=EvaluateConfig(short_side=1024),
        export=ExportConfig.model_validate({"height": 1024, "width": 2048}),
    )
    if classes is not None:
        data = recipe.data.model_copy(update={"classes": chosen_label_set(classes)})
        recipe = recipe.model_copy(update={"data": data})
    label_set = recipe.data.classes
    _agrees(recipe.model, head, path)
    clip = clip_on_meta(recipe.model.backbone) if has_clip else None
    segmenter = hollow_segmenter(recipe.model, clip, label_set)
    layout = official_layout(
        shapes_of(segmenter.state_dict()), None if clip is None else shapes_of(clip.state_dict()), head
    )
    require(shapes_of(state), layout, str(path), label_set)
    _check_numbers(segmenter, state, layout.parts, path)
    ours = {**segmenter.state_dict(), **split(state, layout.parts)}
    if head == "text":
        ours["vocabulary"] = own_vocabulary(recipe.model.backbone, state, label_set)
    unfilled = [name for name, tensor in ours.items() if tensor.is_meta]
    if unfilled:
        raise CloudsError(
            f"the official layout has no place for `{unfilled[0]}` of the recipe's model "
            f"({len(unfilled)} such tensors)",
            "set model.backbone.name to the open_clip ConvNeXt or ResNet the checkpoint was trained with",
        )
    aside = {name: state[name] for name in layout.aside if name in state}
    facts: dict[str, Any] = {
        "file": path.name,
        "sha256": sha256(path),
        "head": head,
        "backbone": recipe.model.backbone.name,
        "label_set": label_set.name,
        "tensors": len(found),
        "used": len(layout.parts),
        "kept_aside": len(aside),
        "dropped": dropped,
        "skipped": skipped,
        "renamed": renamed,
    }
    trained, frozen = split_state(segmenter)
    with atomic_directory(out) as directory:
        write_text(directory / RECIPE, recipe.to_yaml())
        write_tensors(directory / FROZEN, {name: ours[name] for name in frozen})
        write_tensors(directory / TRAINED, {name: ours[name] for name in trained})
        write_tensors(directory / ASIDE, aside)
        write_manifest(
            directory,
            KIND,
            config=recipe.model_dump(mode="json"),
            backbone_weights=f"imported {path.name}" if has_clip else segmenter.backbone.weights,
            inputs={path.name: facts["sha256"]},
            imported=facts,
        )
    return {"run": str(out), **facts}


def to_official(run: Path) -> dict[str, Tensor]:
    """Checkpoint that a run was imported from.

    Args:
        run: The result of `import_checkpoint`.

    Returns:
        The imported tensors by their names in the file (see `read_weight_file`), bit for bit; without those
        that were dropped or skipped.

    Raises:
        CloudsError: It is not a run, or not an imported one.
    """
    facts = read_manifest(run, KIND).get("imported")
    if facts is None:
        raise CloudsError(f"{run} was trained here, not imported", "give a run that `import` made")
    ours, aside = read_weights(run), read_tensors(run / ASIDE)
    if not any(name.startswith(CLIP) for name in aside):
        ours = {name: tensor for name, tensor in ours.items() if not name.startswith("backbone.")}
    state = {**join(ours, official_parts(ours)), **aside}
    return {facts["renamed"].get(name, name): tensor for name, tensor in state.items()}


def _foreign_backbone(
    state: Mapping[str, Tensor], path: Path, recipe: Recipe | None, skip: bool
) -> list[str]:
    """Names of an unsupported backbone's tensors, if they may be skipped."""
    foreign = [name for name in state if name.startswith("backbone.") and not name.startswith(CLIP)]
    if any(name.startswith(CLIP) for name in state):
        return []  # any other name beside a CLIP is unexpected
    if foreign and not skip:
        raise CloudsError(
            f"the backbone of {path} (`{foreign[0]}` and {len(foreign) - 1} more) is not supported",
            "import the head alone: --skip-backbone, and --recipe to name the backbone in its place",
        )
    if recipe is None:
        raise CloudsError(
            f"{path} has no supported backbone", "name one in a recipe, and give that with --recipe"
        )
    return foreign


def _detect_model(state: Mapping[str, Tensor], head: Head) -> ModelConfig:
    """Configuration of a published model: the paper's, except for backbone, head and queries."""
    width = ModelConfig().width
    embeddings = [state[n] for n in (QUERIES, QUERIES.replace("feat", "embed")) if n in state]
    counts = [len(e) for e in embeddings if e.ndim == 2 and e.shape[1] == width]
    name = detect_backbone(shapes_of(state), text=head == "text")
    return ModelConfig(
        backbone=BackboneConfig(name=name, weights=published_weights(name)),
        mask_decoder=MaskDecoderConfig(queries=counts[0]) if counts else MaskDecoderConfig(),
        head=head,
    )


def _agrees(model: ModelConfig, head: Head, path: Path) -> None:
    if model.head != head:
        raise CloudsError(
            f"{path} has a {head} head, the recipe a {model.head} one", f"set model.head={head}"
        )
    if model.backbone.adapter.kind != "none":
        raise CloudsError(
            f"the recipe's backbone has a `{model.backbone.adapter.kind}` adapter, which {path} lacks",
            "import without it, and train from the run with --init",
        )
    if head == "text" and model.text.clip not in (None, model.backbone.name):
        raise CloudsError(
            f"the recipe takes class names from `{model.text.clip}`, but {path} brings its own text tower",
            "set model.text.clip=null",
        )


def _check_numbers(
    segmenter: Segmenter, state: Mapping[str, Tensor], parts: Mapping[str, tuple[str, ...]], path: Path
) -> None:
    own = segmenter.state_dict()
    wrong = [
        f"{theirs} ({state[theirs].dtype})"
        for theirs, ours in parts.items()
        if state[theirs].is_floating_point() != own[ours[0]].is_floating_point()
    ]
    if wrong:
        raise CloudsError(
            f"{path} holds weights that are not floating-point numbers:\n  " + "\n  ".join(wrong),
            "quantised checkpoints can't be imported; give the original",
        )
