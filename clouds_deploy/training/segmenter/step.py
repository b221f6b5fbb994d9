"""One optimiser step: the student learns from a batch while the teacher labels the generated images in it.

A batch may be computed in parts, by several processes and one after the other; see `batch_part`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from clouds_deploy import seeds
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import IGNORE
from clouds_deploy.models.clouds.mask_decoder import Prediction
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.training.processes import Processes
from clouds_deploy.training.schedule import learning_rate
from clouds_deploy.training.segmenter.batch_part import BatchPart, Whole, count_pairs
from clouds_deploy.training.segmenter.criterion import criterion
from clouds_deploy.training.segmenter.optimizer import set_lr
from clouds_deploy.training.segmenter.points import present_classes, uniform_draw
from clouds_deploy.training.segmenter.pseudo_labels import Labeler

MEASURES = ("loss", "loss_class", "loss_mask", "loss_dice", "gradient_norm")


class _Predictor(nn.Module):
    """The module that DDP wraps: the whole student, or its head alone with a frozen backbone.

    Its inputs and outputs are plain tensors, as DDP requires.
    """

    def __init__(self, segmenter: Segmenter, *, whole: bool) -> None:
        super().__init__()
        if whole:
            self.segmenter = segmenter
        else:
            self.pixel_decoder, self.mask_decoder = segmenter.pixel_decoder, segmenter.mask_decoder
        self._head = segmenter.head
        self._vocabulary = segmenter.vocabulary
        self._whole = whole

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        if self._whole:
            made: tuple[Prediction, ...] = self.segmenter(*given)
        else:
            made = self._head(*given, every_layer=True, vocabulary=self._vocabulary)
        return tuple(tensor for p in made for tensor in (p.class_logits, p.mask_logits))


def trains_more_than_the_head(recipe: Recipe) -> bool:
    """Whether a recipe trains the backbone, or an adapter in it."""
    return recipe.model.backbone.trainable or recipe.model.backbone.adapter.kind != "none"


class Step:
    """Optimiser steps of a training.

    Args:
        recipe: The experiment.
        segmenter: The student.
        optimizer: Optimiser of the student.
        labeler: Labels generated images, in self-training.
        processes: The processes of the training.
        class_weights: (C,) float32 on their device, of the classes in the loss; None weighs all alike.
    """

    def __init__(
        self,
        recipe: Recipe,
        segmenter: Segmenter,
        optimizer: torch.optim.Optimizer,
        labeler: Labeler | None,
        processes: Processes,
        class_weights: Tensor | None = None,
    ) -> None:
        self.recipe, self.segmenter, self.optimizer = recipe, segmenter, optimizer
        self.class_weights = class_weights
        self.labeler, self.processes, self.device = labeler, processes, processes.device
        self.parameters = [p for p in segmenter.parameters() if p.requires_grad]
        self._whole = trains_more_than_the_head(recipe)
        self._wrapped: nn.Module | None = None
        if processes.count > 1:
            self._wrapped = processes.wrap(_Predictor(segmenter, whole=self._whole))

    def __call__(self, step: int, batch: dict[str, Tensor]) -> Tensor:
        """Does one step.

        Args:
            step: Counts from 0.
            batch: This process's share, as `training_batches` or `joint_batches` gives it.

        Returns:
            (6,) float32 on the device: addends to the sums of `MEASURES` and to their count, of all processes
            together.

        Raises:
            CloudsError: The training has diverged, or the images cannot be labelled.
        """
        recipe, settings = self.recipe, self.recipe.train
        images = batch["image"].to(self.device, non_blocking=True).float()
        size = len(images) // settings.accumulate
        self.optimizer.zero_grad(set_to_none=True)
        seen = torch.zeros(3, device=self.device)
        whole: Whole | None = None
        with self._labelled(step, batch) as labelled:
            for number in range(settings.accumulate):
                own = slice(number * size, (number + 1) * size)
                place = self.processes.rank * settings.accumulate + number
                which = (place,) if place else ()
                torch.manual_seed(seeds.derive(recipe.seed, step + 1, seeds.MODEL, *which))
                points = torch.Generator(self.device)
                points.manual_seed(seeds.derive(recipe.seed, step, seeds.LOSS_POINTS))
                draw = uniform_draw(points)
                with self._gradients(last=number == settings.accumulate - 1):
                    predictions = self._predict(images[own])
                    labels, ignored = labelled()
                    part = None
                    if self.processes.count * settings.accumulate > 1:
                        whole = whole or self._measure(labels, predictions[0])
                        part = BatchPart(whole, place * size, size)
                    known = None if ignored is None else ignored[own]
                    try:
                        losses = criterion(
                            predictions, labels[own], settings.loss, draw, known, part, self.class_weights
                        )
                    except CloudsError as error:
                        raise CloudsError(f"{error.message} at step {step + 1}", error.hint) from error
                    parts = losses.parts(settings.loss)
                    (parts.sum() * self.processes.count).backward()  # DDP averages; a sum is what is wanted
                seen += parts.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        set_lr(self.optimizer, learning_rate(step, settings))
        self.optimizer.step()
        once = float(self.processes.first)
        return torch.stack((seen.sum(), *seen, norm * once, torch.full_like(norm, once)))

    @contextmanager
    def _gradients(self, *, last: bool) -> Iterator[None]:
        """Context in which processes exchange gradients, with the last part only."""
        with nullcontext() if last or self._wrapped is None else self.processes.alone(self._wrapped):
            yield

    def _predict(self, images: Tensor) -> tuple[Prediction, ...]:
        half = self.recipe.train.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            if self._wrapped is None:
                return self.segmenter(images)  # type: ignore[no-any-return]
            given = (images,) if self._whole else self.segmenter.features(images)
            made = self._wrapped(*given)
        return tuple(Prediction(*pair) for pair in zip(made[::2], made[1::2], strict=True))

    def _measure(self, labels: Tensor, prediction: Prediction) -> Whole:
        """Numbers of the whole batch that its parts need, from all processes' labels."""
        queries, columns = prediction.class_logits.shape[1:]
        counts = torch.stack(count_pairs(present_classes(labels, columns - 1), queries), 1)
        pairs, segments = self.processes.gather(counts).cpu().unbind(1)
        return Whole(tuple(pairs.tolist()), int(segments.sum()))

    @contextmanager
    def _labelled(
        self, step: int, batch: dict[str, Tensor]
    ) -> Iterator[Callable[[], tuple[Tensor, Tensor | None]]]:
        """Labels a batch's generated images in a thread while its body runs.

        Yields:
            A function that waits for the labels, (B, H, W) uint8, and returns them with the mask of unknown
            pixels, (B, H, W) bool, if the recipe ignores these.
        """
        joint, labels = self.recipe.joint, batch["labels"]
        if self.labeler is None or joint is None:
            known = labels.to(self.device, non_blocking=True)
            yield lambda: (known, None)
            return
        generated = batch["generated"]
        with ThreadPoolExecutor(1) as beside:
            online: Future[Tensor] | None = None
            if joint.pseudo_labels == "online":
                first = step * self.recipe.train.batch_size + self.processes.rank * len(labels)
                keys = (first + generated.nonzero()[:, 0]).tolist()
                online = beside.submit(self.labeler, batch["clean"], keys)
            made: list[tuple[Tensor, Tensor | None]] = []

            def finished() -> tuple[Tensor, Tensor | None]:
                if not made:
                    if online is not None:
                        labels[generated] = online.result()
                    known = labels.to(self.device, non_blocking=True)
                    ignored = (known == IGNORE) & generated.to(self.device).view(-1, 1, 1)
                    made.append((known, ignored if joint.ignores else None))
                return made[0]

            yield finished
