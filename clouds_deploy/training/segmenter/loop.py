"""The training loop: plain PyTorch, top to bottom.

Every random draw is a function of seed and step (data: of seed and position), so a resumed run ends, on the
same machine, with the bytes of an undisturbed one. The CPU waits for the device once a step, for the
matching; losses are summed on the device and read when a line is written.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.markup import escape
from torch import Tensor

from clouds_deploy.artifacts import read_json, sha256, write_json
from clouds_deploy.backends.memory import kept_memory
from clouds_deploy.backends.torch_session import scorer
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.console import Advance, progress, say, warn
from clouds_deploy.data import histogram as histograms
from clouds_deploy.data import sources
from clouds_deploy.data.dataset import training_batches
from clouds_deploy.data.histogram import Histogram
from clouds_deploy.data.joint import joint_batches
from clouds_deploy.data.labelled import check_labelled, describe, shared_images, told
from clouds_deploy.data.sources import subset
from clouds_deploy.errors import CloudsError, shortened
from clouds_deploy.evaluation.evaluate import Evaluation, Metric, Predict, evaluate
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.labels import CITYSCAPES, LabelSet
from clouds_deploy.models.checkpoints import LAST, best_checkpoint
from clouds_deploy.models.clouds.store import (
    KIND,
    RECIPE,
    TRAINED,
    split_state,
    write_tensors,
)
from clouds_deploy.training.journal import Journal
from clouds_deploy.training.processes import Processes, device_name, open_processes
from clouds_deploy.training.run import RunFolder
from clouds_deploy.training.schedule import learning_rate
from clouds_deploy.training.segmenter.initial import initial_segmenter
from clouds_deploy.training.segmenter.learner import Learner, Progress, resumed_segmenter
from clouds_deploy.training.segmenter.pseudo_labels import Labeler, LabelStore, Refine
from clouds_deploy.training.segmenter.step import MEASURES, Step, trains_more_than_the_head

if TYPE_CHECKING:
    from clouds_deploy.data.sources import Source

EVALUATION = "evaluation.json"
_DIVERGED = "lower train.lr, lengthen train.warmup_steps, or set train.precision=fp32"


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    init: Path | None = None,
    refine: Refine | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Trains a segmenter into a run directory.

    With a `joint` section in the recipe it trains itself on generated images too
    (docs/explanation/method.md 3.5). Processes that a launcher started share every batch, and the first of
    them writes; see docs/guides/train.md.

    Args:
        recipe: The experiment.
        out: The run directory; must not exist, unless it is to be resumed.
        resume: Goes on from the run's newest checkpoint that holds. A finished run is left as it is.
        init: A finished run whose weights a new run starts from; see `initial_segmenter`.
        refine: Refines pseudo-labels as the recipe's `joint.refine` says; only for a recipe that has one.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        The final evaluation (see `Evaluation.to_dict`) with `run`, `steps`, and `images_per_second`, which
        leaves out evaluations and checkpoints and is null when no step was left to do; with `init` from
        other classes what was kept, as `init`.

    Raises:
        CloudsError: `out` exists, or there is nothing to resume; the recipe is another than the run's; the
            data or weights cannot be had; the loss became NaN; the disk is full; the processes cannot share
            the batch equally.
    """
    processes = open_processes(device, whole_model=trains_more_than_the_head(recipe))
    processes.share(recipe.train.batch_size, recipe.train.accumulate)
    folder = RunFolder(out, recipe, KIND, keep=recipe.train.keep_checkpoints)
    with processes.one_voice(), kept_memory(), ExitStack() as claims:
        finished = folder.finished() if resume else None
        if finished is not None:
            return _summary(out, read_json(out / EVALUATION), finished["steps"], None)
        folder.check_init(resume, init)
        if processes.first and resume:
            claims.enter_context(folder.claimed())
        elif processes.first:
            folder.check_new()
        read = _check_inputs(recipe, refine)
        found = processes.in_turn(lambda: folder.resume(tidy=processes.first)) if resume else None
        begun: dict[str, Any] = {}
        if found is not None:
            segmenter, state = resumed_segmenter(folder, found, recipe)
        else:
            first = initial_segmenter(recipe, init)
            segmenter = first.segmenter
            state = Progress(0, (0.0,) * (len(MEASURES) + 1), segmenter.backbone.weights, first.inputs)
            begun = {"init": first.facts} if first.facts else {}
        if state.backbone_weights == "random":
            warn("the backbone's weights are random: good for a dry run only")
        learner = Learner(segmenter.to(processes.device), recipe)
        if found is not None:
            learner.restore(found)
        elif processes.first:
            learner.start(folder, state)
            claims.enter_context(folder.claimed())
        processes.wait()
        return {**_train(folder, recipe, learner, state, refine, processes), "data": read, **begun}


def _check_inputs(recipe: Recipe, refine: Refine | None) -> dict[str, Any]:
    """Opens all data before any work, so that what is wrong with it shows first.

    Returns:
        How the datasets on disk are read (see `labelled.describe`), and how many images are in both.

    Raises:
        CloudsError: Data are missing, or images have no labels; see also `check_labelled`.
    """
    training, validation = sources.train_source(recipe), sources.val_source(recipe)
    check_labelled(training, "training images")
    check_labelled(validation, "validation images", any_class=False)
    read = {"train": describe(training), "val": describe(validation)}
    if recipe.data.classes != CITYSCAPES:
        say(f"{recipe.data.classes.count} classes of label set {escape(recipe.data.classes.name)}")
    elif any(facts["layout"] == "folder" for datasets in read.values() for facts in datasets):
        say("labels are taken for Cityscapes' 19 classes; name classes of your own with data.classes=FILE")
    for remark in recipe.data.classes.remarks():
        warn(escape(remark))
    for role, datasets in read.items():
        for facts in datasets:
            say(f"{role}: {escape(told(facts))}")
    shared = shared_images(training, validation)
    if shared:
        warn(
            f"{len(shared)} of {len(validation)} validation images are training images too, such as "
            f"{escape(shared[0])}: the mIoU tells nothing about other images"
        )
    if recipe.joint is not None and recipe.joint.trains_itself:
        sources.generated_source(recipe)
        if (recipe.joint.refine is None) != (refine is None):
            raise ValueError("a refiner belongs to a recipe with `joint.refine`, and to no other")
    return {**read, "validation_images_in_training": len(shared)}


def _train(
    folder: RunFolder,
    recipe: Recipe,
    learner: Learner,
    state: Progress,
    refine: Refine | None,
    processes: Processes,
) -> dict[str, Any]:
    """Trains what is left, evaluates, and seals the run."""
    out, device = folder.path, device_name(processes.device)
    say(f"training on {device}" + (f", {processes.count} processes" if processes.count > 1 else ""))
    labeler = None
    if learner.teacher is not None:
        labeler = Labeler(learner.teacher, refine, processes.device, recipe.train.precision)
    trained = state.step == recipe.train.steps
    with Journal(out, state.step, trained=trained) if processes.first else nullcontext() as journal:
        run = _Run(recipe, folder, learner, labeler, journal, state, processes)
        run.train()
        outcome = run.evaluate().to_dict()
    weights, facts = split_state(learner.segmenter)[0], {}
    best = best_checkpoint(out) if recipe.train.keep_best else None
    if best is not None:
        facts = {"best": {"step": best.step, "miou": best.state["outcome"]["miou"]}}
        if best.step != run.state.step:
            outcome = best.state["outcome"]
            if processes.first:
                write_tensors(out / LAST, weights)
            weights = best.tensors(TRAINED)
    processes.wait()  # all have read the best before it goes
    if processes.first:
        write_json(out / EVALUATION, outcome)
        folder.finish(
            TRAINED,
            weights,
            config=recipe.model_dump(mode="json"),
            seed=recipe.seed,
            steps=run.state.step,
            backbone_weights=run.state.backbone_weights,
            inputs=run.state.inputs,
            recipe_sha256=sha256(out / RECIPE),
            device=device,
            processes=processes.count,
            **facts,
        )
    processes.wait()
    speed = run.images / run.seconds if run.images else None
    say(
        f"trained {run.state.step} steps"
        + (f" at {speed:.1f} images/s" if speed else "")
        + f": mIoU {outcome['miou'] or 0:.1f} on {outcome['images']} images"
        + (f", the best, of step {best.step}" if best is not None else "")
    )
    return _summary(out, outcome, run.state.step, speed)


def _summary(out: Path, outcome: dict[str, Any], steps: int, speed: float | None) -> dict[str, Any]:
    return {"run": str(out), "steps": steps, "images_per_second": speed, **outcome}


class _Run:
    """A training under way.

    Attributes:
        state: How far it is.
        images: Images trained on in this process.
        seconds: The time they took.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: RunFolder,
        learner: Learner,
        labeler: Labeler | None,
        journal: Journal | None,
        state: Progress,
        processes: Processes,
    ) -> None:
        self.recipe, self.folder, self.learner, self.labeler = recipe, folder, learner, labeler
        self.journal, self.state, self.processes = journal, state, processes
        self.segmenter = learner.segmenter
        self.share = processes.share(recipe.train.batch_size, recipe.train.accumulate)
        self.histogram = self._count_classes()
        weights = self._class_weights()
        self.step = Step(recipe, learner.segmenter, learner.optimizer, labeler, processes, weights)
        self.images = 0
        self.seconds = 0.0
        sums = state.window if processes.first else [0.0] * len(state.window)
        self.window = torch.tensor(sums, dtype=torch.float64, device=processes.device)

    def train(self) -> None:
        """Does the steps that are left, with a line, an evaluation and a checkpoint when each is due."""
        settings = self.recipe.train
        first = self.state.step
        if first == settings.steps:
            return
        batches: Iterator[dict[str, Tensor]] | None = None
        self.segmenter.train()
        last_line, clock = (first, self.seconds), time.perf_counter()
        with progress("training", settings.steps, "step") as advance:
            for step in range(first, settings.steps):
                if self.labeler is not None:
                    self.labeler.teacher.update(step)
                if batches is None or (step > first and self._labels_due(step)):
                    batches = self._batches(step)
                self._step(step, next(batches))
                done = step + 1
                self.images += settings.batch_size
                line = done % settings.log_every == 0 or done == settings.steps
                look = settings.eval_every > 0 and done % settings.eval_every == 0 and done < settings.steps
                keep = done % settings.checkpoint_every == 0 or done == settings.steps
                if line or look or keep:
                    sums = self._read_window(done)
                    self.seconds += time.perf_counter() - clock
                    if line:
                        count = settings.batch_size * (done - last_line[0])
                        note = self._write_line(done, sums, count / (self.seconds - last_line[1]))
                        last_line = (done, self.seconds)
                    if look:
                        self.evaluate(done)
                        self.segmenter.train()
                    self.state = replace(
                        self.state, step=done, window=tuple([0.0] * len(sums) if line else sums)
                    )
                    if keep and self.processes.first:
                        self.learner.save(self.folder, self.state)
                    clock = time.perf_counter()
                    advance(done, note if line else "")
                else:
                    advance(done)

    def _count_classes(self) -> Histogram | None:
        """How often each class occurs in the training images; counted once a run, if anything needs it."""
        if not self.recipe.counts_classes:
            return None
        path = self.folder.path / histograms.FILE
        source = sources.train_source(self.recipe)
        if path.is_file():
            found = Histogram.load(path)
            if len(found.pixels) != len(source):
                raise CloudsError(
                    f"{path} counts {len(found.pixels)} training images, there are {len(source)} now",
                    "give the run the images that it began with, or start a new one in another --out",
                )
        else:
            found = histograms.count_classes(source, self.recipe.data.classes)
            self.processes.wait()  # all have looked for the file
            if self.processes.first:
                found.save(path)
        if self.recipe.data.sampling == "rare":
            order = histograms.RareClasses(found, self.recipe.data.sampling_temperature, self.recipe.seed)
            most = list(order.facts(found.names).items())[:5]
            say("rare-class sampling: most often " + ", ".join(f"{name} {share:.0%}" for name, share in most))
        return found

    def _class_weights(self) -> Tensor | None:
        """Weights of the classes in the loss, on the device."""
        given, names = self.recipe.train.loss.class_weights, self.recipe.data.classes.names
        if given is None:
            return None
        nothing = Histogram(names, np.zeros((0, len(names)), np.int64))
        weights = (self.histogram or nothing).weights(given)
        told = sorted(zip(names, weights.tolist(), strict=True), key=lambda one: -one[1])
        shown = shortened([f"{name} {weight:.2f}" for name, weight in told], 5)
        say(f"class weights, largest first: {escape(shown)}")
        return torch.from_numpy(weights).to(self.processes.device)

    def _labels_due(self, step: int) -> bool:
        """Whether cached labels are made anew before a step."""
        joint = self.recipe.joint
        if joint is None or joint.pseudo_labels != "cached":
            return False
        return step == 0 or (joint.refresh_every > 0 and step % joint.refresh_every == 0)

    def _batches(self, step: int) -> Iterator[dict[str, Tensor]]:
        """Batches from a step on; cached labels are made first if they are due."""
        joint = self.recipe.joint
        if self.labeler is None or joint is None:
            return training_batches(self.recipe, step, self.share, self.histogram)
        if joint.pseudo_labels == "online":
            return joint_batches(self.recipe, step, None, self.share, self.histogram)
        made = step - step % joint.refresh_every if joint.refresh_every else 0
        store = LabelStore(self.folder.path, made)
        if self._labels_due(step):
            store.fill(sources.generated_source(self.recipe), self.labeler, self.processes)
        store.check()
        return joint_batches(self.recipe, step, store.read, self.share, self.histogram)

    def _step(self, step: int, batch: dict[str, Tensor]) -> None:
        """Does one optimiser step; `step` counts from 0."""
        self.window += self.step(step, batch).double()

    def _read_window(self, done: int) -> list[float]:
        """Sums of all processes, on the CPU; no line and no checkpoint may hold a NaN."""
        sums: list[float] = self.processes.total(self.window).tolist()
        if not all(map(math.isfinite, sums)):
            raise CloudsError(f"the loss or its gradient became NaN or infinite by step {done}", _DIVERGED)
        return sums

    def _write_line(self, done: int, sums: list[float], speed: float) -> str:
        means = {name: value / sums[-1] for name, value in zip(MEASURES, sums, strict=False)}
        rate = learning_rate(done - 1, self.recipe.train)
        if self.journal is not None:
            self.journal.write(done, {**means, "lr": rate, "images_per_second": round(speed, 2)})
        self.window.zero_()
        return f"loss {means['loss']:.3f}"

    def evaluate(self, done: int | None = None) -> Evaluation:
        """Evaluates on the recipe's validation images and writes a line.

        Args:
            done: Steps done; None means all of them.
        """
        recipe = self.recipe
        source = sources.val_source(recipe)
        predict = scorer(self.segmenter, recipe.evaluate.short_side, self.processes.device)
        with progress("evaluating", len(source), "image") as advance:
            outcome = evaluate_share(
                predict, source, recipe.evaluate.metric, self.processes, advance, recipe.data.classes
            )
        summary = outcome.to_dict()
        self._keep_best(summary, self.state.step if done is None else done)
        kept = {name: summary[name] for name in ("miou", "pixel_accuracy")}
        if self.journal is not None:
            self.journal.write(self.state.step if done is None else done, kept)
        return outcome

    def _keep_best(self, summary: dict[str, Any], step: int) -> None:
        """Writes the weights of an evaluation that is better than all before."""
        if not self.recipe.train.keep_best or not self.processes.first:
            return
        before = best_checkpoint(self.folder.path)
        if _better(summary["miou"], None if before is None else before.state["outcome"]["miou"]):
            self.learner.save_best(self.folder, replace(self.state, step=step), summary)


def _better(miou: float | None, than: float | None) -> bool:
    return miou is not None and (than is None or miou > than)


def evaluate_share(
    predict: Predict,
    source: Source,
    metric: Metric,
    processes: Processes,
    progress: Advance | None = None,
    classes: LabelSet = CITYSCAPES,
) -> Evaluation:
    """Evaluates together with other processes, each on some of the images; see `evaluate`.

    Returns:
        The counts of all processes, in each of them.
    """
    if processes.count == 1 or len(source) == 0:
        return evaluate(predict, source, metric, progress, classes)
    own = subset(source, range(processes.rank, len(source), processes.count))
    matrix = ConfusionMatrix(classes.count)
    if len(own):
        matrix = evaluate(predict, own, metric, progress, classes).matrix
    matrix.counts = processes.total(torch.from_numpy(matrix.counts)).numpy()
    return Evaluation(matrix, len(source), metric, classes)
