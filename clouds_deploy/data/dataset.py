"""Labelled images as training sees them.

Training asks for keys, not indices: a key is (index, seed), so what a step sees is a function of the run's
seed and the step's number alone, in whatever process it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clouds_deploy import seeds
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.histogram import Histogram, RareClasses
from clouds_deploy.data.sources import Source, train_source
from clouds_deploy.data.transforms import TrainTransform
from clouds_deploy.errors import CloudsError

Sample = dict[str, Tensor]
Stack = Callable[[list[Sample]], Sample]
Key = tuple[int, int] | tuple[int, int, int]
"""(index of the image, seed of its augmentation), and the class that is to be in the crop, if any."""
ALL = slice(None)


class TrainDataset(Dataset[Any]):
    """Augmented samples by key.

    Args:
        source: Labelled images.
        transform: Their augmentation.
    """

    def __init__(self, source: Source, transform: TrainTransform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, key: Key) -> Sample | CloudsError:
        """One sample, or the fault of its file as a value, which a loader's worker would make a traceback."""
        index, seed, *wanted = key
        try:
            image, labels = self.source.load(index)
            if labels is None:
                raise CloudsError(
                    f"{self.source.name(index)} has no labels", "train on a split where every image has some"
                )
            augmented, truth = self.transform(image, labels, seed, *wanted)
        except CloudsError as error:
            return error
        return {"image": augmented, "labels": truth}


def stack(samples: list[Sample]) -> Sample:
    """A batch of labelled samples: image (B, 3, h, w) uint8 and labels (B, h, w) uint8."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


class Rounds:
    """Endless shuffled rounds in which each image comes once; a function of seed, purpose and place.

    Args:
        count: How many images there are.
        seed: The run's seed.
        purpose: Which order of the run this is, one of `seeds`.
    """

    def __init__(self, count: int, seed: int, purpose: int) -> None:
        self.count, self.seed, self.purpose = count, seed, purpose
        self._order: tuple[int, Any] = (-1, None)

    def __getitem__(self, place: int) -> int:
        number, index = divmod(place, self.count)
        if self._order[0] != number:
            draw = seeds.generator(self.seed, self.purpose, number)
            self._order = number, draw.permutation(self.count)
        return int(self._order[1][index])

    def draw(self, place: int) -> tuple[int, int | None]:
        """Index of an image, which is drawn for no class."""
        return self[place], None


class Order(Protocol):
    """Images of a training by their place, without end: `Rounds` or `RareClasses`."""

    def draw(self, place: int) -> tuple[int, int | None]:
        """Index of an image, and the class that it was drawn for, if for any."""
        ...


class TrainingKeys(Sampler[list[Key]]):
    """The keys of every batch from some step on, without end.

    A batch may span two rounds. The batch of a step does not depend on where the iteration began, which is
    what makes a resumed run the same run.

    Args:
        count: How many images there are.
        seed: The run's seed.
        start_step: The first step.
        batch_size: Keys in a whole batch.
        share: Which keys of every batch, where several processes share them.
        order: Images by place; None goes through all of them in shuffled rounds.
    """

    def __init__(
        self,
        count: int,
        seed: int,
        start_step: int,
        batch_size: int,
        share: slice = ALL,
        order: Order | None = None,
    ) -> None:
        self.images: Order = order or Rounds(count, seed, seeds.IMAGE_ORDER)
        self.seed, self.start_step, self.batch_size, self.share = seed, start_step, batch_size, share

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start_step
        while True:
            positions = range(step * self.batch_size, (step + 1) * self.batch_size)[self.share]
            yield [self._key(position) for position in positions]
            step += 1

    def _key(self, position: int) -> Key:
        index, wanted = self.image(position)
        seed = seeds.derive(self.seed, seeds.AUGMENTATION, position, bits=64)
        return (index, seed) if wanted is None else (index, seed, wanted)

    def image(self, position: int) -> tuple[int, int | None]:
        """Image at a position of the whole training: its index, and the class that it was drawn for."""
        return self.images.draw(position)


def training_loader(
    dataset: Dataset[Any], keys: Iterable[list[Any]], workers: int, together: Stack = stack
) -> Iterator[Sample]:
    """Yields batches that worker processes read ahead.

    Args:
        dataset: Maps a key to a sample, or to the fault of its file.
        keys: The keys of each batch.
        workers: Processes; 0 reads in this one.
        together: Makes a batch of samples.

    Raises:
        CloudsError: A file of the batch is damaged or wrong, or the system ended a worker.
    """
    loader: Any = DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=partial(_batch, together),
        worker_init_fn=_one_thread,
        prefetch_factor=3 if workers else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # the loader draws seeds nobody uses; not from the run's generator
    )
    try:
        for batch in loader:
            if isinstance(batch, CloudsError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker (pid" not in str(error):
            raise
        raise CloudsError(
            f"the system ended a process that reads images: {error}",
            "it ran out of memory or of /dev/shm (Docker: --shm-size=8g); or use train.workers=0",
        ) from error


def _batch(together: Stack, samples: list[Sample | CloudsError]) -> Sample | CloudsError:
    good = [sample for sample in samples if not isinstance(sample, CloudsError)]
    faults = [sample for sample in samples if isinstance(sample, CloudsError)]
    return faults[0] if faults else together(good)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def labelled_images(recipe: Recipe) -> TrainDataset:
    """The augmented training images of a recipe; errors as `train_source`."""
    augment = recipe.augment
    transform = TrainTransform(
        crop=augment.crop,
        scale=augment.scale,
        base_size=augment.base_size,
        color_jitter=augment.color_jitter,
        flip=augment.flip,
        class_share=augment.class_share,
    )
    return TrainDataset(train_source(recipe), transform)


def rare_order(recipe: Recipe, histogram: Histogram | None) -> RareClasses | None:
    """The order of a recipe's labelled images with `data.sampling: rare`; else None."""
    if recipe.data.sampling != "rare" or histogram is None:
        return None
    return RareClasses(histogram, recipe.data.sampling_temperature, recipe.seed)


def training_batches(
    recipe: Recipe, start_step: int, share: slice = ALL, histogram: Histogram | None = None
) -> Iterator[Sample]:
    """Yields the batches of a training from a step on, without end.

    Args:
        recipe: Names data, augmentation, batch size and seed.
        start_step: Steps done already; their images are not loaded again.
        share: Which images of every batch, where several processes share them.
        histogram: Of the training images; `data.sampling: rare` needs it.

    Returns:
        `image` (B, 3, h, w) uint8 RGB and `labels` (B, h, w) uint8 train ids per step.
    """
    dataset, settings = labelled_images(recipe), recipe.train
    order = rare_order(recipe, histogram)
    keys = TrainingKeys(len(dataset.source), recipe.seed, start_step, settings.batch_size, share, order)
    return training_loader(dataset, keys, settings.workers)
