"""The directory of one training, whatever kind of model it trains.

What never changes (the recipe, a frozen backbone) is written once, when the directory appears, together with
a checkpoint of step 0: so a run directory either does not exist or can be resumed. No random state is saved,
because every draw in training is a function of seed and step (see `seeds`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from clouds_deploy.artifacts import (
    MANIFEST,
    atomic_directory,
    check_new,
    read_manifest,
    sha256,
    storage_error,
    write_manifest,
    write_text,
)
from clouds_deploy.artifacts.claims import claimed
from clouds_deploy.bounded import read_text
from clouds_deploy.config.parse import parse
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.sam import SamRecipe
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.checkpoints import (
    CHECKPOINTS,
    Checkpoint,
    clear_leftovers,
    newest_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from clouds_deploy.models.clouds.store import RECIPE, read_tensors, write_tensors
from clouds_deploy.training.journal import TENSORBOARD

OPTIMIZER = "optimizer.safetensors"
_MAY_DIFFER = frozenset({"description", "train.workers", "data.root"})
_SHARED = "shared"


class RunFolder:
    """Directory of a training: recipe, frozen weights, checkpoints; at last trained weights and manifest.

    Args:
        path: The directory.
        recipe: What is trained.
        kind: Kind of the finished run, in its manifest.
        keep: Number of the newest checkpoints that stay until the run is finished.
    """

    def __init__(self, path: Path, recipe: Recipe | SamRecipe, kind: str, *, keep: int) -> None:
        self.path, self.recipe, self.kind, self.keep = path, recipe, kind, keep
        self._shared: dict[str, str] = {}

    def finished(self) -> dict[str, Any] | None:
        """Manifest of the run, if it is finished; says so.

        Raises:
            CloudsError: It is damaged, or was made with another recipe: a finished run cannot go on.
        """
        if not (self.path / MANIFEST).is_file():
            return None
        manifest = read_manifest(self.path, self.kind)
        if key := _other_key(_recipe_of(self.path, self.recipe), self.recipe.model_dump(mode="json")):
            raise CloudsError(
                f"{self.path} is finished ({manifest['steps']} steps); it was made with {key}",
                f"go on from its weights in another --out: --init {self.path}, without --resume",
            )
        remove_checkpoints(self.path)  # a kill may have left them
        say(f"{self.path} is finished already ({manifest['steps']} steps)")
        return manifest

    def check_new(self) -> None:
        """Checks that the directory can be made, before any long work.

        Raises:
            CloudsError: Something is there already, or it cannot be written.
        """
        try:
            check_new(self.path)
        except CloudsError as error:
            begun = os.path.isfile(self.path / RECIPE) and not os.path.isfile(self.path / MANIFEST)
            more = "; an interrupted training goes on with --resume" if begun else ""
            raise CloudsError(error.message, f"{error.hint}{more}") from error

    def check_init(self, resume: bool, init: Path | None) -> None:
        """Refuses weights to start from for a run that goes on.

        Raises:
            CloudsError: Both were given.
        """
        if resume and init is not None:
            raise CloudsError(
                "--resume and --init exclude each other",
                f"leave out --init: {self.path} has weights of its own",
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keeps other processes from training in the directory; one that is not there is not made.

        Raises:
            CloudsError: Another process trains in it, or it cannot be written.
        """
        if not os.path.isdir(self.path):
            yield
            return
        with ExitStack() as stack:
            try:
                stack.enter_context(claimed(self.path))
            except OSError as error:
                raise storage_error(self.path, error) from error
            yield

    def start(
        self,
        tensors: Mapping[str, Mapping[str, Tensor]],
        state: Mapping[str, Any],
        shared: Mapping[str, Mapping[str, Tensor]] | None = None,
    ) -> None:
        """Makes the directory, with a checkpoint of step 0.

        Args:
            tensors: See `save`.
            state: See `save`.
            shared: Tensors that training does not change, by file name; all checkpoints need them.

        Raises:
            CloudsError: Something is there already, or it cannot be written.
        """
        with atomic_directory(self.path) as directory:
            write_text(directory / RECIPE, self.recipe.to_yaml())
            for name, named in (shared or {}).items():
                write_tensors(directory / name, named)
                self._shared[name] = sha256(directory / name)
            self._save(directory, 0, tensors, state)

    def save(self, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> None:
        """Writes a checkpoint; older ones than the `keep` newest go.

        Args:
            step: Optimiser steps done.
            tensors: What training changes, by file name.
            state: What else it needs to go on; JSON.

        Raises:
            CloudsError: The disk is full or the place cannot be written; earlier checkpoints are untouched.
        """
        self._save(self.path, step, tensors, state)

    def _save(
        self, run: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
    ) -> None:
        facts = {"recipe": self.recipe.model_dump(mode="json"), _SHARED: self._shared}
        save_checkpoint(run, step, tensors, {**state, **facts}, keep=self.keep)

    def resume(self, *, tidy: bool = True) -> Checkpoint:
        """Newest checkpoint that holds.

        Args:
            tidy: Whether to delete what killed writes left; only one of several processes does.

        Raises:
            CloudsError: There is no run; its recipe is another one, or was edited; no checkpoint holds; one
                cannot be read just now.
        """
        started = _recipe_of(self.path, self.recipe)  # there is a run, and its recipe can be read
        if tidy:
            clear_leftovers(self.path)
        found = newest_checkpoint(self.path)
        if found is None:
            raise CloudsError(
                f"{self.path} holds no checkpoint that can be used",
                "start the training again in another --out",
            )
        if "recipe" in found.state:
            made_with = _tree(yaml.safe_dump(found.state["recipe"]), self.recipe, found.path)
            if key := _other_key(made_with, started):
                raise CloudsError(
                    f"{self.path / RECIPE} was changed by you: its checkpoints were made with {key}",
                    "set it back, or start a new run in another --out",
                )
        check_resumable(self.path, self.recipe)
        self._shared = dict(found.state.get(_SHARED, {}))
        for name, digest in self._shared.items():
            if not (self.path / name).is_file() or sha256(self.path / name) != digest:
                raise CloudsError(
                    f"{self.path / name} is not what was written, and every checkpoint needs it",
                    "start the training again in another --out",
                )
        say(f"going on from step {found.step} of {self.recipe.train.steps}")
        return found

    def shared(self, name: str) -> dict[str, Tensor]:
        """Tensors of a file that training does not change."""
        return read_tensors(self.path / name)

    def finish(self, weights: str, tensors: Mapping[str, Tensor], **facts: Any) -> None:
        """Seals the run: the trained weights, then the manifest, then the checkpoints go.

        A kill in between leaves a run that resumes at its last step and is sealed again.

        Args:
            weights: Name of the file.
            tensors: The trained weights.
            facts: What else the manifest says.

        Raises:
            CloudsError: The disk is full or the place cannot be written.
        """
        write_tensors(self.path / weights, tensors)
        write_manifest(self.path, self.kind, ignore=(CHECKPOINTS, TENSORBOARD), **facts)
        remove_checkpoints(self.path)


def check_resumable(run: Path, recipe: Recipe | SamRecipe) -> None:
    """Checks that a run was started with a recipe.

    Raises:
        CloudsError: There is no run, or the recipe differs; the message names the first key that does.
    """
    if key := _other_key(_recipe_of(run, recipe), recipe.model_dump(mode="json")):
        raise CloudsError(
            f"the run in {run} was started with {key}",
            "resume it with its own recipe, or start a new run in another --out",
        )


def _recipe_of(run: Path, recipe: Recipe | SamRecipe) -> dict[str, Any]:
    """Recipe that a run was started with, of the kind that another recipe is."""
    path = run / RECIPE
    if not path.is_file():
        raise CloudsError(f"there is no run to resume in {run}", "start it without --resume")
    return _tree(read_text(path, "recipe file"), recipe, path)


def _tree(text: str, recipe: Recipe | SamRecipe, where: Path) -> dict[str, Any]:
    return parse(type(recipe), text, str(where)).model_dump(mode="json")


def _other_key(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> str:
    """First key whose value differs, as `key=value, not other`; empty if none does."""
    for name in {**before, **now}:
        key, mine, other = prefix + name, before.get(name), now.get(name)
        if isinstance(mine, Mapping) and isinstance(other, Mapping):
            if found := _other_key(mine, other, f"{key}."):
                return found
        elif mine != other and key not in _MAY_DIFFER:
            return f"{key}={_brief(mine)}, not {_brief(other)}"
    return ""


def _brief(value: Any) -> str:
    return "{...}" if isinstance(value, Mapping) else str(value)
