"""Checkpoints of a training that a kill, a full disk or a flipped bit cannot turn against it.

A checkpoint is a directory of safetensors files that appears by one rename. Its `state.json` names the sha256
of every file, and its own. Only a checkpoint whose own bytes fail its own hash is passed over; it is kept
under another name. One that cannot be read just now, or was written by another version, stops the training.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clouds_deploy.artifacts import MANIFEST, atomic_directory, discard, read_manifest, sha256, write_json
from clouds_deploy.artifacts.claims import free_name, remove_dead
from clouds_deploy.bounded import load_json
from clouds_deploy.config.recipe import Recipe
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
    load_run,
    read_run_recipe,
    read_tensors,
    write_tensors,
)

CHECKPOINTS = "checkpoints"
STATE = "state.json"
LAST = "last.safetensors"
"""In a finished run whose weights are the best ones: those of the last step."""
_NAME, _BEST = re.compile(r"step_(\d+)"), re.compile(r"best_(\d+)")
_MADE = re.compile(r"(step|best)_\d+(\.damaged(-\d+)?)?|\.(step|best)_\d+\.claim")
"""A checkpoint, a damaged one, and the claim on one whose writer was killed."""
_OWN = "state_sha256"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose bytes are those that were written.

    Attributes:
        path: Its directory.
        step: Optimiser steps done.
        state: What the training recorded beside its tensors.
    """

    path: Path
    step: int
    state: dict[str, Any]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Tensors of one of its files; none if the training wrote no such file."""
        return read_tensors(self.path / name) if name in self.state["files"] else {}


def save_checkpoint(
    run: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    *,
    keep: int,
) -> None:
    """Writes `checkpoints/step_NNNNNNNN`, then removes all but the newest.

    Args:
        run: The run's directory.
        step: Optimiser steps done.
        tensors: By file name, the tensors by name.
        state: What else the training needs to go on; JSON.
        keep: Number of checkpoints that stay. With two, a damaged one costs only the steps since the other.

    Raises:
        CloudsError: The disk is full or the place cannot be written; earlier checkpoints are untouched.
    """
    _write(run / CHECKPOINTS / f"step_{step:08d}", step, tensors, state)
    for old in _newest_first(run)[keep:]:
        discard(old)


def save_best(
    run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Writes `checkpoints/best_NNNNNNNN`, then removes the best of before; arguments as `save_checkpoint`."""
    made = run / CHECKPOINTS / f"best_{step:08d}"
    if not made.exists():  # a resumed training comes by again, with the same weights
        _write(made, step, tensors, state)
    for old in _newest_first(run, _BEST):
        if old != made:
            discard(old)


def best_checkpoint(run: Path) -> Checkpoint | None:
    """Checkpoint of the best evaluation so far; None where there is none that holds."""
    for path in _newest_first(run, _BEST):
        try:
            state, fault = _read(path)
        except OSError as error:
            raise CloudsError(
                f"checkpoint {path} cannot be read: {error.strerror or error}", "check the disk"
            ) from error
        if not fault:
            return Checkpoint(path, int(state["step"]), state)
        warn(f"checkpoint {path.name} is damaged ({fault}): passed over")
    return None


@dataclass(frozen=True)
class Opened:
    """A segmenter of a run at one of its checkpoints.

    Attributes:
        recipe: The run's.
        segmenter: In evaluation mode, on the CPU.
        sha256: Tells these weights from others.
        step: Optimiser steps done; None where the run does not say.
    """

    recipe: Recipe
    segmenter: Segmenter
    sha256: str
    step: int | None


def open_checkpoint(run: Path, which: str | None) -> Opened:
    """Opens a run at one of its checkpoints, also one that is not finished.

    Args:
        run: Its folder.
        which: `best`, `last` or a number of steps; None is what a finished run ended with.

    Raises:
        CloudsError: There is no such checkpoint; the message lists those there are.
    """
    if which is None or (run / MANIFEST).is_file():
        return _finished(run, which)
    if not (run / RECIPE).is_file():
        raise CloudsError(f"{run} is no run", "give what train made")
    found: Checkpoint | None = None
    if which == "best":
        found = best_checkpoint(run)
    else:
        for path in _newest_first(run):
            if which == "last" or int(path.name.partition("_")[2]) == _step(which):
                state, fault = _read(path)
                if fault:
                    raise CloudsError(f"checkpoint {path} is damaged: {fault}", "choose another --checkpoint")
                found = Checkpoint(path, int(state["step"]), state)
                break
    if found is None:
        steps = [str(int(path.name.partition("_")[2])) for path in _newest_first(run)]
        there = ["last", *steps] if steps else []
        there += ["best"] if _newest_first(run, _BEST) else []
        raise CloudsError(
            f"{run} has no checkpoint `{which}`",
            f"it has: {', '.join(there) or 'none'}"
            + ("" if "best" in there else "; train.keep_best keeps the best"),
        )
    recipe = read_run_recipe(run)
    segmenter = empty_segmenter(recipe.model, str(found.state["backbone_weights"]), recipe.data.classes)
    fill(segmenter, {**read_tensors(run / FROZEN), **found.tensors(TRAINED)}, str(found.path))
    return Opened(recipe, segmenter.eval(), sha256(found.path / STATE), found.step)


def _finished(run: Path, which: str | None) -> Opened:
    """Opens a finished run, at its last step where it ended with the best."""
    recipe, segmenter = load_run(run)
    manifest = read_manifest(run, KIND, verify=False)
    steps, best = manifest.get("steps"), manifest.get("best")
    kept = None if best is None else int(best["step"])
    ended = steps if kept is None else kept
    asked = (which == "best" and best is not None) or (ended is not None and _step(which or "") == ended)
    if which is None or asked:
        return Opened(recipe, segmenter, sha256(run / MANIFEST), ended)
    if which == "last" or (steps is not None and _step(which) == steps):
        if (run / LAST).is_file():
            fill(segmenter, {**read_tensors(run / FROZEN), **read_tensors(run / LAST)}, str(run / LAST))
            return Opened(recipe, segmenter, sha256(run / LAST), steps)
        return Opened(recipe, segmenter, sha256(run / MANIFEST), steps)
    there = ["last", str(steps)] + (["best", str(kept)] if kept is not None else [])
    raise CloudsError(
        f"{run} has no checkpoint `{which}`",
        f"it is finished and has: {', '.join(there)}"
        + ("" if best is not None else "; train.keep_best keeps the best"),
    )


def _step(which: str) -> int:
    return int(which) if which.isdecimal() else -1


def _write(
    place: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    with atomic_directory(place) as directory:
        for name, named in tensors.items():
            write_tensors(directory / name, named)
        whole = {"step": step, **state, "files": {name: sha256(directory / name) for name in tensors}}
        write_json(directory / STATE, {**whole, _OWN: _digest(whole)})


def newest_checkpoint(run: Path) -> Checkpoint | None:
    """Newest checkpoint that holds; None if there is none.

    A damaged one is reported and renamed to `step_NNNNNNNN.damaged`.

    Raises:
        CloudsError: A checkpoint cannot be read, or was written by another version.
    """
    for path in _newest_first(run):
        try:
            state, fault = _read(path)
        except OSError as error:
            raise CloudsError(
                f"checkpoint {path} cannot be read: {error.strerror or error}",
                "check the disk and the permissions, then resume again",
            ) from error
        if not fault:
            return Checkpoint(path, int(state["step"]), state)
        kept = free_name(path.with_name(f"{path.name}.damaged"))
        warn(
            f"checkpoint {path.name} is damaged ({fault}), kept as {kept.name}; going back to the one before"
        )
        os.replace(path, kept)
    return None


def remove_checkpoints(run: Path) -> None:
    """Deletes all checkpoints of a finished run, the damaged ones too; what else lies there stays."""
    folder = run / CHECKPOINTS
    for path in [*folder.iterdir()] if folder.is_dir() else ():
        if _MADE.fullmatch(path.name):
            discard(path)
    clear_leftovers(run)
    with suppress(OSError):
        folder.rmdir()


def clear_leftovers(run: Path) -> None:
    """Deletes what dead processes left half written in a run and among its checkpoints."""
    remove_dead(run)
    remove_dead(run / CHECKPOINTS)


def _read(path: Path) -> tuple[dict[str, Any], str]:
    """Reads a checkpoint's state and checks all its files.

    Returns:
        The state, and what is damaged; empty if nothing is.
    """
    try:
        state = load_json((path / STATE).read_bytes())
    except FileNotFoundError:
        return {}, f"{STATE} is missing"
    except ValueError:
        return {}, f"{STATE} is no JSON"
    own = state.pop(_OWN, None) if isinstance(state, dict) else ""
    if own is not None and own != _digest(state):
        return {}, f"{STATE} is not what was written"
    if "files" not in state:
        raise CloudsError(
            f"checkpoint {path} was written by an earlier version, without hashes of its files",
            "finish this run with the version that began it, or start it again in another --out",
        )
    for name, digest in state["files"].items():
        if not (path / name).is_file() or sha256(path / name) != digest:
            return {}, f"{name} is not what was written"
    return state, ""


def _digest(state: Any) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _newest_first(run: Path, kind: re.Pattern[str] = _NAME) -> list[Path]:
    folder = run / CHECKPOINTS
    found = folder.iterdir() if folder.is_dir() else ()
    steps = {int(match[1]): path for path in found if (match := kind.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps, reverse=True)]
