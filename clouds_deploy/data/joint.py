"""Batches of labelled and generated images together (docs/explanation/method.md 3.3 and 3.4).

The two kinds keep an exact share: of the first n images of a training, floor(n * share) are generated. So
what a position holds, and which image of its kind, is a function of the position alone, as resuming needs it.
(The authors draw both kinds from one weighted shuffle, which gives the same share on average.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from clouds_deploy import seeds
from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.dataset import (
    ALL,
    Key,
    Order,
    Rounds,
    Sample,
    TrainDataset,
    TrainingKeys,
    labelled_images,
    rare_order,
    training_loader,
)
from clouds_deploy.data.histogram import Histogram
from clouds_deploy.data.images import Pixels
from clouds_deploy.data.sources import Source, generated_source, joint_of
from clouds_deploy.data.transforms import GeneratedTransform
from clouds_deploy.errors import CloudsError


class JointKeys(TrainingKeys):
    """The keys of every batch of both kinds; an index from `labelled` on is a generated image's.

    Args:
        labelled: How many labelled images there are.
        generated: How many generated images there are.
        proportion: Of the generated ones among all images, 0..1, both excluded.
        seed: The run's seed.
        start_step: The first step.
        batch_size: Keys in a whole batch.
        share: Which keys of every batch, where several processes share them.
        order: Labelled images by place; None goes through all of them in shuffled rounds.
    """

    def __init__(
        self,
        labelled: int,
        generated: int,
        proportion: float,
        seed: int,
        start_step: int,
        batch_size: int,
        share: slice = ALL,
        order: Order | None = None,
    ) -> None:
        super().__init__(labelled, seed, start_step, batch_size, share)
        self.labelled, self.proportion = labelled, proportion
        self.images = order or Rounds(labelled, seed, seeds.LABELLED_ORDER)
        self.generated = Rounds(generated, seed, seeds.GENERATED_ORDER)

    def image(self, position: int) -> tuple[int, int | None]:
        """Image at a position of the whole training; see `TrainingKeys.image`."""
        before, after = (int(np.floor(n * self.proportion)) for n in (position, position + 1))
        if after > before:
            return self.labelled + self.generated[before], None
        return self.images.draw(position - before)


class JointDataset(Dataset[Any]):
    """Augmented samples of both kinds by key.

    Args:
        labelled: The labelled ones.
        generated: The generated ones; their labels, if they have any, are ignored.
        transform: What is done to the generated ones.
        labels: Name of a generated image -> (H, W) uint8 pseudo-labels; None leaves them to the step.
    """

    def __init__(
        self,
        labelled: TrainDataset,
        generated: Source,
        transform: GeneratedTransform,
        labels: Callable[[str], Pixels] | None = None,
    ) -> None:
        self.labelled, self.generated, self.transform, self.labels = labelled, generated, transform, labels

    def __getitem__(self, key: Key) -> Sample | CloudsError:
        """One sample, or the fault of its file; a generated one has its `clean` view beside `image`."""
        index, seed, *_ = key
        first = len(self.labelled.source)
        if index < first:
            return self.labelled[key]
        try:
            image = self.generated.load(index - first)[0]
            known = self.labels(self.generated.name(index - first)) if self.labels else None
            clean, jittered, labels = self.transform(image, seed, known)
        except CloudsError as error:
            return error
        return {"image": jittered, "clean": clean, "labels": labels}


def stack_joint(samples: list[Sample]) -> Sample:
    """A batch of samples of both kinds.

    Returns:
        image (B, 3, h, w) uint8, labels (B, h, w) uint8, generated (B,) bool, and clean (G, 3, h, w) uint8,
        the teacher's view of the generated ones, in order.
    """
    image = torch.stack([sample["image"] for sample in samples])
    clean = [sample["clean"] for sample in samples if "clean" in sample]
    return {
        "image": image,
        "labels": torch.stack([sample["labels"] for sample in samples]),
        "generated": torch.tensor(["clean" in sample for sample in samples]),
        "clean": torch.stack(clean) if clean else image[:0],
    }


def generated_share(labelled: int, generated: int, config: SelfTrainingConfig) -> float:
    """Proportion of generated images among all images of a training (docs/explanation/method.md 3.3)."""
    if config.generated_share is not None:
        return config.generated_share
    weight = config.generated_repeat * generated
    return weight / (config.source_repeat * labelled + weight)


def joint_batches(
    recipe: Recipe,
    start_step: int,
    labels: Callable[[str], Pixels] | None,
    share: slice = ALL,
    histogram: Histogram | None = None,
) -> Iterator[Sample]:
    """Yields the batches of a joint training from a step on, without end; see `stack_joint`.

    Args:
        recipe: As in `training_batches`.
        start_step: See there.
        labels: Name of a generated image -> its pseudo-labels; None leaves them to the step.
        share: See there.
        histogram: See there.
    """
    labelled, generated = labelled_images(recipe), generated_source(recipe)
    counts = len(labelled.source), len(generated)
    proportion = generated_share(*counts, joint_of(recipe))
    transform = GeneratedTransform(recipe.augment.flip, recipe.augment.crop)
    return training_loader(
        JointDataset(labelled, generated, transform, labels),
        JointKeys(
            *counts,
            proportion,
            recipe.seed,
            start_step,
            recipe.train.batch_size,
            share,
            rare_order(recipe, histogram),
        ),
        recipe.train.workers,
        stack_joint,
    )
