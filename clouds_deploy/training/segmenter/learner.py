"""What a segmenter's training changes: the student, its optimiser, and in self-training the teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from clouds_deploy.config.recipe import Recipe
from clouds_deploy.models.checkpoints import Checkpoint, save_best
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import FROZEN, TRAINED, empty_segmenter, fill, split_state
from clouds_deploy.training.run import OPTIMIZER, RunFolder
from clouds_deploy.training.segmenter.optimizer import build_optimizer, optimizer_tensors, restore_optimizer
from clouds_deploy.training.segmenter.teacher import Teacher

TEACHER = "teacher.safetensors"


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


class Learner:
    """Model, optimiser and teacher of a training.

    Args:
        segmenter: The student, on the device that it learns on.
        recipe: The experiment.

    Attributes:
        segmenter: The student.
        optimizer: Changes it.
        teacher: Follows it; None without self-training.
    """

    def __init__(self, segmenter: Segmenter, recipe: Recipe) -> None:
        self.segmenter = segmenter
        self.optimizer = build_optimizer(segmenter, recipe.train)
        self.teacher = (
            Teacher(segmenter, recipe.joint) if recipe.joint and recipe.joint.trains_itself else None
        )

    def start(self, folder: RunFolder, progress: Progress) -> None:
        """Makes the run's directory, with the frozen weights and a checkpoint of step 0."""
        folder.start(self._tensors(), _facts(progress), {FROZEN: split_state(self.segmenter)[1]})

    def save(self, folder: RunFolder, progress: Progress) -> None:
        """Writes a checkpoint."""
        folder.save(progress.step, self._tensors(), _facts(progress))

    def save_best(self, folder: RunFolder, progress: Progress, outcome: Mapping[str, Any]) -> None:
        """Writes the student's weights as the best so far, with their evaluation."""
        tensors = {TRAINED: split_state(self.segmenter)[0]}
        save_best(folder.path, progress.step, tensors, {**_facts(progress), "outcome": dict(outcome)})

    def restore(self, found: Checkpoint) -> None:
        """Puts optimiser and teacher back as they were at a checkpoint.

        Raises:
            CloudsError: Its tensors belong to another model.
        """
        where = str(found.path)
        restore_optimizer(self.optimizer, self.segmenter, found.tensors(OPTIMIZER), where)
        if self.teacher is not None:
            self.teacher.restore(found.tensors(TEACHER), where)

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        tensors: dict[str, Mapping[str, Tensor]] = {
            TRAINED: split_state(self.segmenter)[0],
            OPTIMIZER: optimizer_tensors(self.optimizer, self.segmenter),
        }
        if self.teacher is not None:
            tensors[TEACHER] = self.teacher.state()
        return tensors


def resumed_segmenter(folder: RunFolder, found: Checkpoint, recipe: Recipe) -> tuple[Segmenter, Progress]:
    """Returns the student of a checkpoint, on the CPU, and how far its training was."""
    state = found.state
    progress = Progress(found.step, tuple(state["window"]), state["backbone_weights"], dict(state["inputs"]))
    segmenter = empty_segmenter(recipe.model, progress.backbone_weights, recipe.data.classes)
    fill(segmenter, {**folder.shared(FROZEN), **found.tensors(TRAINED)}, str(found.path))
    return segmenter, progress


def _facts(progress: Progress) -> dict[str, Any]:
    facts = asdict(progress)
    del facts["step"]
    return facts
