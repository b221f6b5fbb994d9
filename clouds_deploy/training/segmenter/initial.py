"""The model of step 0: random decoders, or the weights of another run, whatever classes that has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clouds_deploy import seeds
from clouds_deploy.artifacts import sha256
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.console import say, warn
from clouds_deploy.errors import CloudsError, shortened
from clouds_deploy.labels import LabelSet
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter, embed_names
from clouds_deploy.models.clouds.store import TRAINED, empty_segmenter, fill, load_run

ROWS = ("mask_decoder.classify.weight", "mask_decoder.classify.bias")
"""Tensors of the linear head with a row for each class, and one for void at the end."""
VOCABULARY = "vocabulary"
"""The text head's class names as vectors."""


@dataclass(frozen=True)
class Initial:
    """A model of step 0 and what it came from.

    Attributes:
        segmenter: The model, on the CPU.
        inputs: Names of what went into it, to their sha256.
        facts: Of a start from other classes: `kept`, `new` and `left` classes by name; else nothing.
    """

    segmenter: Segmenter
    inputs: dict[str, str]
    facts: dict[str, Any]


def initial_segmenter(recipe: Recipe, init: Path | None) -> Initial:
    """Model that a training starts from.

    Args:
        recipe: The experiment.
        init: A finished run whose weights it takes; None starts with random decoders. Where that run has
            other classes, those of equal names keep their rows of the linear head, and the others start anew.
            The text head embeds the new names, all its weights stay.

    Raises:
        CloudsError: The run does not hold, or is of another model; the text head's names cannot be embedded.
    """
    classes = recipe.data.classes
    seed = seeds.derive(recipe.seed, 0, seeds.MODEL)
    if init is None:
        if recipe.joint is not None and recipe.joint.trains_itself:
            warn("self-training starts from a random head; --init RUN starts it from a trained one")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Initial(build_segmenter(recipe.model, classes), {}, {})
    before, other = load_run(init)
    old, state = before.data.classes, other.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        segmenter = empty_segmenter(recipe.model, other.backbone.weights, classes)
    facts: dict[str, Any] = {}
    if old.names != classes.names or (VOCABULARY in state and old.synonyms != classes.synonyms):
        facts = _adapt(state, segmenter, recipe, old)
        _tell(facts, init, classes)
    fill(segmenter, state, str(init))
    return Initial(segmenter, {"init": sha256(init / TRAINED)}, facts)


def _adapt(state: dict[str, Tensor], segmenter: Segmenter, recipe: Recipe, old: LabelSet) -> dict[str, Any]:
    """Replaces the tensors of another run that depend on its classes."""
    classes, fresh = recipe.data.classes, segmenter.state_dict()
    places = {name: index for index, name in enumerate(old.names)}
    kept = [name for name in classes.names if name in places]
    for name in ROWS:
        if name in state and name in fresh and state[name].shape[1:] == fresh[name].shape[1:]:
            rows = fresh[name].clone()
            rows[-1] = state[name][-1]
            for one in kept:
                rows[classes.index(one)] = state[name][places[one]]
            state[name] = rows
    if VOCABULARY in state and segmenter.vocabulary is not None:
        state[VOCABULARY] = _vocabulary(state[VOCABULARY], recipe, old)
    return {
        "kept": kept,
        "new": [name for name in classes.names if name not in places],
        "left": [name for name in old.names if name not in classes.names],
    }


def _vocabulary(vectors: Tensor, recipe: Recipe, old: LabelSet) -> Tensor:
    """Vectors of the new classes' names: taken over where the synonyms are the same, else embedded anew."""
    known = dict(zip(old.synonyms, vectors, strict=True))
    wanted = recipe.data.classes.synonyms
    if all(words in known for words in wanted):
        return torch.stack([known[words] for words in wanted])
    try:
        return embed_names(recipe.model, wanted)
    except CloudsError as error:
        new = shortened([words[0] for words in wanted if words not in known])
        raise CloudsError(
            f"the names of new classes ({new}) cannot be embedded: {error.message}", error.hint
        ) from error


def _tell(facts: dict[str, Any], init: Path, classes: LabelSet) -> None:
    new, left = facts["new"], facts["left"]
    say(
        f"{init}: backbone and decoders are kept, and the classes {shortened(facts['kept']) or 'none'} "
        f"({len(facts['kept'])} of {classes.count} by name)"
        + (f"; new: {shortened(new)}" if new else "")
        + (f"; left behind: {shortened(left)}" if left else "")
    )
