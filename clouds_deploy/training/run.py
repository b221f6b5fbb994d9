"""Checkpoints that a kill, a full disk or a flipped bit cannot turn against their run.

A checkpoint is a directory that appears by one rename and names its files' sha256. What never changes (the
recipe, the frozen backbone) is written once, when the run directory appears, together with a checkpoint of
step 0: so a run directory either does not exist or can be resumed. No random state is saved, because every
draw in training is a function of seed and step.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clouds_deploy.artifacts import (
    MANIFEST,
    atomic_directory,
    read_json,
    sha256,
    storage_error,
    write_json,
    write_manifest,
    write_text,
)
from clouds_deploy.config.parse import parse_recipe
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.section import Section
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import (
    FROZEN,
    KIND,
    RECIPE,
    TRAINED,
    empty_segmenter,
    fill,
    read_tensors,
    split_state,
    write_tensors,
)
from clouds_deploy.training.segmenter.optimizer import optimizer_tensors

CHECKPOINTS = "checkpoints"
OPTIMIZER = "optimizer.safetensors"
TEACHER = "teacher.safetensors"
STATE = "state.json"
EVALUATION = "evaluation.json"
_MAY_DIFFER = frozenset({"train.workers"})


@dataclass(frozen=True)
class Progress:
    """How far a run is, and what it came from.

    Attributes:
        step: Optimiser steps done.
        window: Sums since the last line of metrics.jsonl, so that a resumed run writes the same line.
        backbone_weights: Where the backbone's weights came from.
        inputs: Names of what went into the run, to their sha256.
    """

    step: int
    window: tuple[float, ...]
    backbone_weights: str
    inputs: dict[str, str]


def start_run(
    out: Path,
    recipe: Recipe,
    segmenter: Segmenter,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    teacher: Mapping[str, Tensor] | None = None,
) -> None:
    """Make a run directory that can be resumed from step 0.

    Raises:
        CloudsError: Something is at `out` already, or it cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        finished = (out / MANIFEST).is_file()
        raise CloudsError(
            f"{out} exists already",
            "choose another --out, or delete it first"
            + ("" if finished else "; an interrupted training goes on with --resume"),
        )
    _remove_leftovers(out.parent, f".{out.name}.tmp-")
    with atomic_directory(out) as directory:
        write_text(directory / RECIPE, recipe.to_yaml())
        write_tensors(directory / FROZEN, split_state(segmenter)[1])
        save_checkpoint(directory, segmenter, optimizer, progress, keep=1, teacher=teacher)


def save_checkpoint(
    run: Path,
    segmenter: Segmenter,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    *,
    keep: int,
    teacher: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `checkpoints/step_NNNNNNNN`, then remove all but the newest.

    Args:
        run: The run directory.
        segmenter: Its trained tensors are written.
        optimizer: Its whole state is written.
        progress: Goes into `state.json`, with the recipe's and the files' sha256.
        keep: How many checkpoints stay.
        teacher: The teacher's tensors, in self-training.

    Raises:
        CloudsError: The disk is full or the place cannot be written; earlier checkpoints are untouched.
    """
    with atomic_directory(run / CHECKPOINTS / f"step_{progress.step:08d}") as directory:
        write_tensors(directory / TRAINED, split_state(segmenter)[0])
        write_tensors(directory / OPTIMIZER, optimizer_tensors(optimizer, segmenter))
        if teacher is not None:
            write_tensors(directory / TEACHER, teacher)
        names = (TRAINED, OPTIMIZER, *([TEACHER] if teacher is not None else []))
        state = {
            "step": progress.step,
            "window": progress.window,
            "backbone_weights": progress.backbone_weights,
            "inputs": progress.inputs,
            "recipe_sha256": sha256(run / RECIPE),
            "files": {name: sha256(directory / name) for name in names},
        }
        write_json(directory / STATE, state)
    for old in list(_newest_first(run))[keep:]:
        _remove(old)


def check_resumable(run: Path, recipe: Recipe) -> None:
    """Refuse to go on with another recipe than the run was started with, and tidy what a kill left.

    Raises:
        CloudsError: There is no run, or the recipe differs; the message names the first key that does.
    """
    if not (run / RECIPE).is_file():
        raise CloudsError(f"there is no run to resume in {run}", "start it without --resume")
    started = parse_recipe((run / RECIPE).read_text(encoding="utf-8"), str(run / RECIPE))
    before, now = dict(_flat(started)), dict(_flat(recipe))
    for key in before:
        if before[key] != now.get(key) and key not in _MAY_DIFFER:
            raise CloudsError(
                f"the run in {run} was started with {key}={before[key]}, not {now.get(key)}",
                "resume it with its own recipe, or start a new run in another --out",
            )
    _remove_leftovers(run, ".")
    _remove_leftovers(run / CHECKPOINTS, ".")


def _flat(section: Section, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        segmenter: The model.
        moments: The optimiser's tensors.
        teacher: The teacher's tensors; empty without self-training.
        progress: How far the run was.
    """

    segmenter: Segmenter
    moments: dict[str, Tensor]
    teacher: dict[str, Tensor]
    progress: Progress


def load_checkpoint(run: Path, recipe: Recipe) -> Checkpoint:
    """Open the newest checkpoint that holds.

    A damaged one is reported and removed, and the one before it is taken.

    Raises:
        CloudsError: None holds, or the run's frozen weights are damaged.
    """
    for path in _newest_first(run):
        try:
            state = read_json(path / STATE)
            fault = _fault(path, state, sha256(run / RECIPE))
        except CloudsError as error:
            fault = error.message
        if fault:
            warn(f"checkpoint {path.name} is damaged ({fault}); going back to the one before")
            _remove(path)
            continue
        progress = Progress(
            state["step"], tuple(state["window"]), state["backbone_weights"], dict(state["inputs"])
        )
        segmenter = empty_segmenter(recipe.model, progress.backbone_weights)
        tensors = {**read_tensors(run / FROZEN), **read_tensors(path / TRAINED)}
        fill(segmenter, tensors, str(path))
        teacher = read_tensors(path / TEACHER) if TEACHER in state["files"] else {}
        return Checkpoint(segmenter, read_tensors(path / OPTIMIZER), teacher, progress)
    raise CloudsError(f"{run} holds no checkpoint that can be read", "delete it and start again")


def _fault(path: Path, state: Any, recipe: str) -> str:
    if not isinstance(state, dict) or not {"step", "window", "files", "inputs"} <= state.keys():
        return f"{STATE} is incomplete"
    if state.get("recipe_sha256") != recipe:
        return f"{RECIPE} of the run was changed"
    for name in {TRAINED, OPTIMIZER, *state["files"]}:
        if not (path / name).is_file() or sha256(path / name) != state["files"].get(name):
            return f"{name} is not what was written"
    return ""


def finish_run(run: Path, recipe: Recipe, segmenter: Segmenter, progress: Progress, **facts: Any) -> None:
    """Seal a run: the trained weights, then the manifest, then the checkpoints go.

    A kill in between leaves a run that resumes at its last step and is sealed again.

    Raises:
        CloudsError: The disk is full or the place cannot be written.
    """
    write_tensors(run / TRAINED, split_state(segmenter)[0])
    write_manifest(
        run,
        KIND,
        ignore=CHECKPOINTS,
        config=recipe.model_dump(mode="json"),
        seed=recipe.seed,
        steps=progress.step,
        backbone_weights=progress.backbone_weights,
        inputs=progress.inputs,
        recipe_sha256=hashlib.sha256((run / RECIPE).read_bytes()).hexdigest(),
        **facts,
    )
    _remove(run / CHECKPOINTS)


def _newest_first(run: Path) -> Iterator[Path]:
    folder = run / CHECKPOINTS
    if folder.is_dir():
        yield from sorted(folder.glob("step_*"), reverse=True)


def _remove(path: Path) -> None:
    """Delete a directory so that a kill in between leaves none that looks whole."""
    doomed = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        os.replace(path, doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error
    shutil.rmtree(doomed, ignore_errors=True)


def _remove_leftovers(folder: Path, start: str) -> None:
    """Delete what killed writes left in a folder: `.<name>.tmp-<hex>`."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name.startswith(start) and ".tmp-" in path.name:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
