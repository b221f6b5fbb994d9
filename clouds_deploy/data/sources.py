"""From the data section of a recipe to images: what to train on, what to evaluate on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.utils.data import Sampler

from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    from clouds_deploy.data.dataset import Key, Source, TrainDataset
    from clouds_deploy.data.images import Pixels

STREETS = "streets"
VALIDATION_SEED = 1
"""Of drawn validation scenes: the same whatever the recipe's seed, so that runs can be compared."""
ALL = slice(None)


class Selection:
    """Some images of a source.

    Args:
        source: Where they are.
        indices: Which.
    """

    def __init__(self, source: Source, indices: Sequence[int]) -> None:
        self._source, self._indices = source, indices

    def __len__(self) -> int:
        return len(self._indices)

    def name(self, index: int) -> str:
        """Names an image, as the source does."""
        return self._source.name(self._indices[index])

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Loads an image, as the source does."""
        return self._source.load(self._indices[index])

    def files(self, index: int) -> tuple[Path, ...]:
        """Say which files an image is of, as the source does."""
        return self._source.files(self._indices[index])


def select(source: Source, count: int) -> Selection:
    """Takes so many evenly spaced images of a source; all, when it has no more."""
    return Selection(
        source, np.linspace(0, len(source) - 1, min(count, len(source))).round().astype(int).tolist()
    )


class Together:
    """Several sources one after the other, each as often as it counts.

    Args:
        sources: The sources and how often each counts.
    """

    def __init__(self, sources: Sequence[tuple[Source, int]]) -> None:
        self._sources = [source for source, _ in sources]
        self._places = [
            (number, index)
            for number, (source, repeat) in enumerate(sources)
            for _ in range(repeat)
            for index in range(len(source))
        ]

    def __len__(self) -> int:
        return len(self._places)

    def name(self, index: int) -> str:
        """Names an image: its source's number, and the name it has there."""
        number, place = self._places[index]
        return f"{number}/{self._sources[number].name(place)}"

    def load(self, index: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
        """Loads an image, as its source does."""
        number, place = self._places[index]
        return self._sources[number].load(place)

    def files(self, index: int) -> tuple[Path, ...]:
        """Say which files an image is of, as its source does."""
        number, place = self._places[index]
        return self._sources[number].files(place)


def train_source(recipe: Recipe) -> Source:
    """Opens the images to train on; several datasets where the recipe names more.

    Raises:
        CloudsError: The layout needs a root that the recipe does not name, or the folder does not hold it.
    """
    from clouds_deploy.data.dataset import LayoutSource

    first, more = _first_source(recipe), recipe.data.more
    if not more:
        return first
    others = ((LayoutSource(one.layout, one.root, one.split), one.repeat) for one in more)
    return Together([(first, 1), *others])


def _first_source(recipe: Recipe) -> Source:
    """Opens what `data.layout` names.

    Raises:
        CloudsError: The layout needs a root that the recipe does not name, or the folder does not hold it.
    """
    from clouds_deploy.data.dataset import LayoutSource, StreetsSource

    data = recipe.data
    if data.layout == STREETS:
        # even, where the validation seed is odd: no scene is ever in both
        return StreetsSource(data.domain, 2 * recipe.seed, data.train_images, data.height, data.width)
    if data.root is None:
        raise _no_root("data.root", data.layout)
    return LayoutSource(data.layout, data.root, data.train_split)


def val_source(recipe: Recipe) -> Source:
    """Opens the images to evaluate on; errors as `train_source`."""
    from clouds_deploy.data.dataset import LayoutSource, StreetsSource

    data = recipe.data
    layout = data.val_layout or data.layout
    if layout == STREETS:
        return StreetsSource(data.domain, VALIDATION_SEED, data.val_images or 100, data.height, data.width)
    root = data.val_root or data.root
    if root is None:
        raise _no_root("data.val_root" if data.val_layout else "data.root", layout)
    source = LayoutSource(layout, root, data.val_split)
    return source if data.val_images is None else select(source, data.val_images)


def _no_root(key: str, layout: str) -> CloudsError:
    return CloudsError(f"layout `{layout}` needs a folder", f"name it: {key}=PATH")


def generated_source(recipe: Recipe) -> Source:
    """Opens the generated images of the joint stage.

    Raises:
        CloudsError: None are named, or the folder does not hold them.
    """
    from clouds_deploy.data.dataset import ImageSource, StreetsSource

    data, joint = recipe.data, joint_of(recipe)
    if joint.generated_root is not None:
        return ImageSource(joint.generated_root, joint.generated_images)
    if data.layout != STREETS:
        raise CloudsError(
            f"recipe `{recipe.name}` names no generated images",
            "name their folder: joint.generated_root=PATH; `generate` makes one",
        )
    count = joint.generated_images or data.train_images
    return StreetsSource("imagined", 2 * recipe.seed, count, data.height, data.width)


def joint_of(recipe: Recipe) -> SelfTrainingConfig:
    """Give the section on the joint stage of a recipe that has one."""
    if recipe.joint is None:
        raise ValueError(f"recipe `{recipe.name}` is of no joint stage")
    return recipe.joint


def generated_share(labelled: int, generated: int, config: SelfTrainingConfig) -> float:
    """Say which share of all images drawn is generated (docs/method.md 3.3)."""
    if config.generated_share is not None:
        return config.generated_share
    weight = config.generated_repeat * generated
    return weight / (config.source_repeat * labelled + weight)


def joint_batches(
    recipe: Recipe, start_step: int, labels: Callable[[str], Pixels] | None, share: slice = ALL
) -> Iterable[dict[str, Tensor]]:
    """Give the batches of a joint training from a step on, without end; see `collate_joint`.

    Args:
        recipe: As in `training_batches`.
        start_step: See there.
        labels: Name of a generated image -> its pseudo-labels; None leaves them to the step.
        share: Which images of every batch to give.
    """
    from clouds_deploy.data.dataset import training_loader
    from clouds_deploy.data.joint import JointDataset, JointKeys, collate_joint
    from clouds_deploy.data.transforms import GeneratedTransform

    labelled, generated = _labelled(recipe), generated_source(recipe)
    counts = len(labelled.source), len(generated)
    drawn = generated_share(*counts, joint_of(recipe))
    transform = GeneratedTransform(recipe.augment.flip, recipe.augment.crop)
    return training_loader(
        JointDataset(labelled, generated, transform, labels),
        _Shared(JointKeys(*counts, drawn, recipe.seed, start_step, recipe.train.batch_size), share),
        recipe.train.workers,
        collate_joint,
    )


def training_batches(recipe: Recipe, start_step: int, share: slice = ALL) -> Iterable[dict[str, Tensor]]:
    """Give the batches of a training from a step on, without end.

    Args:
        recipe: Names data, augmentation, batch size and seed.
        start_step: Steps done already; their images are not loaded again.
        share: Which images of every batch to give.

    Returns:
        `image` (B, 3, h, w) uint8 RGB and `labels` (B, h, w) uint8 train ids per step.
    """
    from clouds_deploy.data.dataset import training_keys, training_loader

    dataset, settings = _labelled(recipe), recipe.train
    return training_loader(
        dataset,
        _Shared(training_keys(len(dataset.source), recipe.seed, start_step, settings.batch_size), share),
        workers=settings.workers,
    )


class _Shared(Sampler["list[Key]"]):
    """One process's share of every batch's keys."""

    def __init__(self, keys: Sampler[list[Key]], share: slice) -> None:
        self._keys, self._share = keys, share

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self._keys:
            yield batch[self._share]


def _labelled(recipe: Recipe) -> TrainDataset:
    from clouds_deploy.data.dataset import TrainDataset
    from clouds_deploy.data.transforms import TrainTransform

    augment = recipe.augment
    transform = TrainTransform(
        crop=augment.crop,
        scale=augment.scale,
        base_size=augment.base_size,
        color_jitter=augment.color_jitter,
        flip=augment.flip,
    )
    return TrainDataset(train_source(recipe), transform)
