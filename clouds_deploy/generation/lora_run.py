"""The folder of a LoRA: settings at the start, checkpoints during the tuning, the manifest at the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clouds_deploy.artifacts import (
    MANIFEST,
    read_json,
    read_json_lines,
    write_json,
    write_manifest,
    write_text,
)
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.painter import LORA, SETTINGS
from clouds_deploy.models.checkpoints import (
    CHECKPOINTS,
    clear_leftovers,
    newest_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)

METRICS, CLASS = "metrics.jsonl", "class"
_TENSORS = "tensors.safetensors"
_KEPT = 2
"""Checkpoints that stay; the one before the newest is for a disk that damages it."""


@dataclass(frozen=True)
class Checkpoint:
    """State of a tuning.

    Attributes:
        step: Steps done.
        lora: Its weights.
        moments: The optimiser's tensors, called `<moment> <weight>`.
        scaler: The state of the gradient scaler; empty where there is none.
    """

    step: int
    lora: dict[str, Tensor]
    moments: dict[str, Tensor]
    scaler: dict[str, Any]


def moments_of(optimizer: torch.optim.Optimizer, trained: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An optimiser's tensors by the names of `Checkpoint.moments`."""
    state = optimizer.state
    return {f"{key} {name}": value for name, p in trained.items() for key, value in state[p].items()}


def restore(
    checkpoint: Checkpoint, optimizer: torch.optim.Optimizer, trained: Mapping[str, torch.Tensor]
) -> None:
    """Restores the tensors of a checkpoint."""
    for name, parameter in trained.items():
        parameter.data.copy_(checkpoint.lora[name])
    for key, value in checkpoint.moments.items():
        moment, _, name = key.partition(" ")
        place = trained[name].device if moment != "step" else "cpu"
        optimizer.state[trained[name]][moment] = value.to(place)


class LoraRun:
    """The folder of a tuning, which may be resumed.

    Args:
        out: The folder.
        settings: Everything that the LoRA depends on and that is known before the model is loaded.
        resume: Whether to resume a tuning there.

    Raises:
        CloudsError: Something is there without `resume`; there is nothing to resume; it was started with
            other settings.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, resume: bool) -> None:
        self.out = out
        path = out / SETTINGS
        self.settings: dict[str, Any] = json.loads(json.dumps(settings))
        if resume:
            if not path.is_file():
                raise CloudsError(f"there is no tuning to resume in {out}", "start it without --resume")
            found = read_json(path)
            other = sorted(k for k in {*found, *self.settings} if found.get(k) != self.settings.get(k))
            if other:
                raise CloudsError(
                    f"the tuning in {out} was begun with other settings ({', '.join(other)})",
                    "go on with the same command, or choose another --out",
                )
        elif out.exists() and not (out.is_dir() and not any(out.iterdir())):
            begun = path.is_file() and not self.finished
            hint = "; an interrupted tuning goes on with --resume" if begun else ""
            raise CloudsError(f"{out} exists already", "choose another --out" + hint)

    @property
    def finished(self) -> bool:
        """Whether it has a manifest."""
        return (self.out / MANIFEST).is_file()

    def begin(self) -> None:
        """Writes the settings, and removes leftovers of a killed process."""
        clear_leftovers(self.out)
        if not (self.out / SETTINGS).is_file():
            write_json(self.out / SETTINGS, self.settings)

    def save(self, at: Checkpoint, base: str) -> None:
        """Writes a checkpoint, which appears whole; older ones go.

        Args:
            at: The checkpoint.
            base: sha256 of the model that is tuned.

        Raises:
            CloudsError: The disk is full; earlier checkpoints are untouched.
        """
        tensors = {**{f"lora {name}": t for name, t in at.lora.items()}, **at.moments}
        state = {"base": base, "scaler": at.scaler}
        save_checkpoint(self.out, at.step, {_TENSORS: tensors}, state, keep=_KEPT)

    def load(self, base: str) -> Checkpoint | None:
        """Newest undamaged checkpoint, or None.

        Args:
            base: sha256 of the model that is to be tuned.

        Raises:
            CloudsError: The checkpoint is of another model.
        """
        found = newest_checkpoint(self.out)
        if found is None:
            return None
        if found.state["base"] != base:
            raise CloudsError(
                f"the tuning in {self.out} was begun on other weights of {self.settings['model']}",
                "put the model back as it was, or start again in another --out",
            )
        tensors = found.tensors(_TENSORS)
        lora = {k.removeprefix("lora "): t for k, t in tensors.items() if k.startswith("lora ")}
        moments = {k: t for k, t in tensors.items() if not k.startswith("lora ")}
        return Checkpoint(found.step, lora, moments, found.state["scaler"])

    def keep_lines(self, step: int) -> None:
        """Drops the losses that were written after a checkpoint of this step."""
        lines = [line for line in self.lines() if line["step"] <= step]
        write_text(self.out / METRICS, "".join(json.dumps(line) + "\n" for line in lines))

    def lines(self) -> list[dict[str, Any]]:
        """Losses so far, without an incomplete line."""
        return read_json_lines(self.out / METRICS)

    def note(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Appends losses."""
        with (self.out / METRICS).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def seal(self, **facts: Any) -> dict[str, Any]:
        """Writes the manifest, then the checkpoints go; a kill in between leaves a run that is finished."""
        manifest = write_manifest(self.out, LORA, ignore=(CHECKPOINTS,), **facts)
        remove_checkpoints(self.out)
        return manifest
