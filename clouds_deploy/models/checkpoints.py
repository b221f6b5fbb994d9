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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clouds_deploy.artifacts import atomic_directory, discard, sha256, write_json
from clouds_deploy.artifacts.claims import free_name, remove_dead
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.store import read_tensors, write_tensors

CHECKPOINTS = "checkpoints"
STATE = "state.json"
_NAME = re.compile(r"step_(\d+)")
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
    with atomic_directory(run / CHECKPOINTS / f"step_{step:08d}") as directory:
        for name, named in tensors.items():
            write_tensors(directory / name, named)
        whole = {"step": step, **state, "files": {name: sha256(directory / name) for name in tensors}}
        write_json(directory / STATE, {**whole, _OWN: _digest(whole)})
    for old in _newest_first(run)[keep:]:
        discard(old)


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
    """Deletes all checkpoints of a finished run."""
    discard(run / CHECKPOINTS)


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
        state = json.loads((path / STATE).read_bytes())
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


def _newest_first(run: Path) -> list[Path]:
    folder = run / CHECKPOINTS
    found = folder.iterdir() if folder.is_dir() else ()
    steps = {int(match[1]): path for path in found if (match := _NAME.fullmatch(path.name))}
    return [steps[step] for step in sorted(steps, reverse=True)]
