"""A model on disk: two safetensors files, a recipe, and a manifest with their sha256.

Frozen tensors (the foundation model, hundreds of megabytes) are written once in a run, trained tensors (the
decoders) in every checkpoint. Loading refuses missing and surplus tensors, and needs no download: the frozen
file holds the backbone, so the network is built with random weights and filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from clouds_deploy.artifacts import atomic_path, read_manifest, storage_error, write_manifest, write_text
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.bounded import read_text
from clouds_deploy.config.model import ModelConfig
from clouds_deploy.config.parse import parse
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES, LabelSet
from clouds_deploy.models.clouds.adapters import unfilled
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter

KIND = "run"
RECIPE = "recipe.yaml"
FROZEN = "frozen.safetensors"
TRAINED = "trained.safetensors"


def split_state(segmenter: Segmenter) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A model's tensors, divided into those that training changes and those that it does not.

    A buffer (a norm's running mean) goes with the parameters of the nearest module around it that has any.

    Returns:
        (trained, frozen), each by name; together the whole `state_dict`.
    """
    movable = {name: p.requires_grad for name, p in segmenter.named_parameters()}
    trained: dict[str, Tensor] = {}
    frozen: dict[str, Tensor] = {}
    for name, tensor in segmenter.state_dict().items():
        moves = movable[name] if name in movable else _around(name, movable)
        (trained if moves else frozen)[name] = tensor
    return trained, frozen


def _around(name: str, movable: Mapping[str, bool]) -> bool:
    prefix = name
    while prefix:
        prefix = prefix.rpartition(".")[0]
        inside = [moves for other, moves in movable.items() if not prefix or other.startswith(prefix + ".")]
        if inside:
            return any(inside)
    return False


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes named tensors as safetensors, atomically.

    Raises:
        CloudsError: The disk is full or the place cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        with atomic_path(path) as temporary:
            temporary.touch()
            mode = temporary.stat().st_mode
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary)
            temporary.chmod(mode)  # safetensors makes its files private
    except SafetensorError as error:  # its writer reports a failed write as text
        raise storage_error(path, _as_os_error(str(error))) from error


def _as_os_error(text: str) -> OSError:
    number = text.partition("os error ")[2].partition(")")[0]
    return OSError(int(number), text) if number.isdigit() else OSError(text)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads a safetensors file onto the CPU.

    Raises:
        CloudsError: It is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CloudsError(
            f"{path} is missing or no readable safetensors file: {error}", "copy it again, whole"
        ) from error


def fill(segmenter: Segmenter, tensors: Mapping[str, Tensor], where: str) -> None:
    """Fills a model with all its tensors.

    Args:
        segmenter: The model to fill.
        tensors: Exactly the tensors of its `state_dict`.
        where: What to call their source in errors.

    Raises:
        CloudsError: A tensor is missing, too many, or of another shape; the message names it.
    """
    own = segmenter.state_dict()
    hint = "the weights belong to a model of another recipe; compare the `model` sections"
    missing = sorted(own.keys() - tensors.keys())
    if missing:
        raise CloudsError(f"{where} lacks `{missing[0]}` ({len(missing)} of {len(own)} missing)", hint)
    surplus = sorted(tensors.keys() - own.keys())
    if surplus:
        raise CloudsError(f"{where} holds `{surplus[0]}`, which the model does not have", hint)
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise CloudsError(
                f"{where}: `{name}` has shape {list(tensor.shape)}, not {list(own[name].shape)}", hint
            )
    segmenter.load_state_dict(dict(tensors))


def save_weights(directory: Path, segmenter: Segmenter) -> None:
    """Writes both weight files of a model into a directory; errors as `write_tensors`."""
    trained, frozen = split_state(segmenter)
    write_tensors(directory / FROZEN, frozen)
    write_tensors(directory / TRAINED, trained)


def read_weights(directory: Path) -> dict[str, Tensor]:
    """Tensors of both weight files of a directory; errors as `read_tensors`."""
    return {**read_tensors(directory / FROZEN), **read_tensors(directory / TRAINED)}


def empty_segmenter(config: ModelConfig, provenance: str, classes: LabelSet = CITYSCAPES) -> Segmenter:
    """Returns a model to be filled: nothing is downloaded, no global random state is changed.

    Args:
        config: The model section of the recipe it was trained with.
        provenance: Where the backbone's weights first came from, for later manifests and reports.
        classes: The label set of that recipe, `data.classes`.
    """
    adapter = unfilled(config.backbone.adapter)
    backbone = config.backbone.model_copy(update={"weights": "random", "adapter": adapter})
    with torch.random.fork_rng(devices=[]):
        text = config.text.model_copy(update={"weights": "random"})
        segmenter = build_segmenter(config.model_copy(update={"backbone": backbone, "text": text}), classes)
    segmenter.config = config
    segmenter.backbone.weights = provenance
    return segmenter


@contextmanager
def random_run(recipe: Recipe) -> Iterator[Path]:
    """A run of a recipe with random weights, untrained, for a dry run.

    Args:
        recipe: The recipe.

    Yields:
        A run's folder, gone afterwards; its manifest says that the weights are random.
    """
    backbone = recipe.model.backbone.model_copy(update={"weights": "random"})
    text = recipe.model.text.model_copy(update={"weights": "random"})
    model = recipe.model.model_copy(update={"backbone": backbone, "text": text})
    with Scratch() as folder, torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        run = folder / recipe.name
        run.mkdir()
        write_text(run / RECIPE, recipe.model_copy(update={"model": model}).to_yaml())
        save_weights(run, build_segmenter(model, recipe.data.classes))
        write_manifest(run, KIND, backbone_weights="random")
        yield run


def read_run_recipe(directory: Path) -> Recipe:
    """Recipe that a run was trained with; errors as `parse`."""
    path = directory / RECIPE
    return parse(Recipe, read_text(path, "recipe file"), str(path))


def load_run(directory: Path) -> tuple[Recipe, Segmenter]:
    """Opens a finished run.

    Args:
        directory: What `train` made; its manifest must hold.

    Returns:
        The recipe it was trained with, and the model in evaluation mode on the CPU.

    Raises:
        CloudsError: It is no finished run, a file in it changed, or its tensors do not fit its recipe.
    """
    manifest = read_manifest(directory, KIND)
    recipe = read_run_recipe(directory)
    segmenter = empty_segmenter(recipe.model, str(manifest["backbone_weights"]), recipe.data.classes)
    fill(segmenter, read_weights(directory), str(directory))
    return recipe, segmenter.eval()
