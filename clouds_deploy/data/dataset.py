"""Labelled images as training and evaluation see them.

Training asks for keys, not indices: a key is (index, seed), so what a step sees is a function of the run's
seed and the step's number alone, in whatever process it is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from clouds_deploy import seeds
from clouds_deploy.data.images import Pixels, list_images, read_image
from clouds_deploy.data.layouts import get_layout
from clouds_deploy.data.transforms import TrainTransform
from clouds_deploy.errors import CloudsError, nearest

Collate = Callable[[list[Any]], dict[str, Tensor] | CloudsError]
Key = tuple[int, int]
"""(index of the image, seed of its augmentation)."""


class Source(Protocol):
    """Images by number."""

    def __len__(self) -> int:
        """Say how many there are."""

    def name(self, index: int) -> str:
        """Names an image, uniquely."""

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Give (H, W, 3) uint8 RGB and (H, W) uint8 train ids, or None without labels."""

    def files(self, index: int) -> tuple[Path, ...]:
        """Say which files an image and its labels are read from; none where they are drawn."""


class LayoutSource:
    """A split of a dataset on disk.

    Args:
        layout: Its layout's name.
        root: Its folder.
        split: Its split.

    Raises:
        CloudsError: See `Layout.scan`.
    """

    def __init__(self, layout: str, root: Path, split: str) -> None:
        self._layout = get_layout(layout)
        self.samples = self._layout.scan(root, split)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """Give the sample's name."""
        return self.samples[index].name

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Reads the sample; errors as `Layout.load`."""
        return self._layout.load(self.samples[index])

    def files(self, index: int) -> tuple[Path, ...]:
        """Give image and labels."""
        sample = self.samples[index]
        return (sample.image,) if sample.labels is None else (sample.image, sample.labels)


class StreetsSource:
    """Drawn street scenes.

    Args:
        domain: `game`, `imagined` or `photo`.
        seed: Scenes of different seeds are different scenes.
        count: How many.
        height: In pixels.
        width: In pixels.

    Raises:
        CloudsError: There is no such domain.
    """

    def __init__(self, domain: str, seed: int, count: int, height: int, width: int) -> None:
        from clouds_deploy.streets import DOMAINS

        if domain not in DOMAINS:
            raise CloudsError(f"there are no streets of domain `{domain}`", nearest(domain, DOMAINS))
        self.domain, self.seed, self.count, self.size = domain, seed, count, (height, width)

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Give domain, seed and number."""
        return f"{self.domain}_{self.seed}_{index:05d}"

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Draws the scene."""
        from clouds_deploy.streets import render

        scene = render(self.domain, self.seed, index, *self.size)
        return scene.image, scene.labels

    def files(self, index: int) -> tuple[Path, ...]:
        """Give none."""
        return ()


class ImageSource:
    """Images of a folder, without labels.

    Args:
        root: The folder; its `images` are taken where it has such a folder, as what `generate` makes does.
        count: Only this many of them, by name; None means all.

    Raises:
        CloudsError: There is no such folder, or fewer images in it.
    """

    def __init__(self, root: Path, count: int | None = None) -> None:
        if not root.is_dir():
            raise CloudsError(f"there is no folder {root}", "check the path")
        self.root = root / "images" if (root / "images").is_dir() else root
        self.paths = list_images([self.root])[:count]
        if count is not None and len(self.paths) < count:
            raise CloudsError(
                f"{self.root} holds {len(self.paths)} images, not {count}", "ask for fewer, or generate more"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Give the path in the folder, without suffix but with it in the name: two files never share one."""
        path = self.paths[index].relative_to(self.root)
        return path.with_name(f"{path.stem}_{path.suffix.lstrip('.')}").as_posix()

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Reads the image; errors as `read_image`."""
        return read_image(self.paths[index]), None

    def files(self, index: int) -> tuple[Path, ...]:
        """Give the image."""
        return (self.paths[index],)


class TrainDataset(Dataset[Any]):
    """Augmented samples by key.

    Args:
        source: Labelled images.
        transform: Their augmentation.
    """

    def __init__(self, source: Source, transform: TrainTransform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, key: Key) -> dict[str, Tensor] | CloudsError:
        """Give one sample; a fault of a file is handed on as a value, because a loader's worker would
        otherwise turn it into a traceback.
        """
        index, seed = key
        try:
            image, labels = self.source.load(index)
            if labels is None:
                raise CloudsError(
                    f"{self.source.name(index)} has no labels", "train on a split where every image has some"
                )
            augmented, truth = self.transform(image, labels, seed)
        except CloudsError as error:
            return error
        return {"image": augmented, "labels": truth}


def collate(samples: list[dict[str, Tensor] | CloudsError]) -> dict[str, Tensor] | CloudsError:
    """Stacks samples, or hands on the first fault among them.

    Returns:
        image (B, 3, h, w) uint8 and labels (B, h, w) uint8.
    """
    good: list[dict[str, Tensor]] = []
    for sample in samples:
        if isinstance(sample, CloudsError):
            return sample
        good.append(sample)
    return {name: torch.stack([sample[name] for sample in good]) for name in good[0]}


class TrainingKeys(Sampler[list[Key]]):
    """The keys of every batch from some step on, without end.

    Images come in shuffled rounds, each image once a round; a batch may span two rounds. The batch of a step
    does not depend on where the iteration began, which is what makes a resumed run the same run.

    Args:
        count: How many images there are.
        seed: The run's seed.
        start_step: The first step to give.
        batch_size: Keys in a batch.
    """

    def __init__(self, count: int, seed: int, start_step: int, batch_size: int) -> None:
        self.count, self.seed, self.start_step, self.batch_size = count, seed, start_step, batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        orders: dict[int, Any] = {}
        step = self.start_step
        while True:
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                turn, place = divmod(position, self.count)
                if turn not in orders:
                    order = seeds.generator(self.seed, seeds.IMAGE_ORDER, turn)
                    orders = {turn: order.permutation(self.count)}
                seed = seeds.derive(self.seed, seeds.AUGMENTATION, position, bits=64)
                batch.append((int(orders[turn][place]), seed))
            yield batch
            step += 1


def training_keys(count: int, seed: int, start_step: int, batch_size: int) -> TrainingKeys:
    """Makes the keys of a run; see `TrainingKeys`."""
    return TrainingKeys(count, seed, start_step, batch_size)


def training_loader(
    dataset: Dataset[Any], keys: Sampler[list[Key]], workers: int, together: Collate = collate
) -> Iterator[dict[str, Tensor]]:
    """Give batches without end, read ahead by worker processes.

    Args:
        dataset: What the keys ask.
        keys: Which batches.
        workers: Processes; 0 reads in this one.
        together: Makes a batch of samples, or hands on a fault.

    Yields:
        What `together` makes.

    Raises:
        CloudsError: A file of the batch is damaged or wrong, or the system ended a worker.
    """
    loader: Any = DataLoader(
        dataset,
        batch_sampler=keys,
        num_workers=workers,
        collate_fn=together,
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


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
