"""Batches of labelled and generated images together (docs/method.md 3.3 and 3.4).

The two kinds keep an exact share: of the first n images of a training, floor(n * share) are generated. So
what a position holds, and which image of its kind, is a function of the position alone, as resuming needs it.
(The authors draw both kinds from one weighted shuffle, which gives the same share on average.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from clouds_deploy import seeds
from clouds_deploy.data.dataset import Key, Source, TrainDataset
from clouds_deploy.data.images import Pixels
from clouds_deploy.data.transforms import GeneratedTransform
from clouds_deploy.errors import CloudsError

Sample = dict[str, Tensor]


class JointKeys(Sampler[list[Key]]):
    """The keys of every batch from some step on, without end.

    An index from `labelled` on is a generated image's. Each kind comes in shuffled rounds, each image once a
    round.

    Args:
        labelled: How many labelled images there are.
        generated: How many generated images there are.
        share: Share of the generated ones, 0..1, both excluded.
        seed: The run's seed.
        start_step: The first step to give.
        batch_size: Keys in a batch.
    """

    def __init__(
        self, labelled: int, generated: int, share: float, seed: int, start_step: int, batch_size: int
    ) -> None:
        self.labelled, self.generated, self.share = labelled, generated, share
        self.seed, self.start_step, self.batch_size = seed, start_step, batch_size

    def __iter__(self) -> Iterator[list[Key]]:
        step = self.start_step
        orders: dict[tuple[bool, int], Any] = {}
        while True:
            positions = range(step * self.batch_size, (step + 1) * self.batch_size)
            yield [self._key(position, orders) for position in positions]
            step += 1

    def _key(self, position: int, orders: dict[tuple[bool, int], Any]) -> Key:
        before, after = (int(np.floor(n * self.share)) for n in (position, position + 1))
        drawn = after > before
        count, place = (self.generated, before) if drawn else (self.labelled, position - before)
        turn, index = divmod(place, count)
        if (drawn, turn) not in orders:
            orders.pop((drawn, turn - 1), None)
            purpose = seeds.GENERATED_ORDER if drawn else seeds.LABELLED_ORDER
            orders[drawn, turn] = seeds.generator(self.seed, purpose, turn).permutation(count)
        chosen = int(orders[drawn, turn][index])
        seed = seeds.derive(self.seed, seeds.AUGMENTATION, position, bits=64)
        return (self.labelled + chosen if drawn else chosen), seed


class JointDataset(Dataset[Any]):
    """Augmented samples of both kinds by key.

    Args:
        labelled: The labelled ones.
        generated: The generated ones; their labels, if they have any, are not looked at.
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
        """Give one sample, or the fault of its file; a generated one has its `clean` view beside `image`."""
        index, seed = key
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


def collate_joint(samples: list[Sample | CloudsError]) -> Sample | CloudsError:
    """Stacks samples of both kinds, or hands on the first fault among them.

    Returns:
        image (B, 3, h, w) uint8, labels (B, h, w) uint8, generated (B,) bool, and clean (G, 3, h, w) uint8,
        the teacher's view of the generated ones, in order.
    """
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, CloudsError):
            return sample
        good.append(sample)
    image = torch.stack([sample["image"] for sample in good])
    clean = [sample["clean"] for sample in good if "clean" in sample]
    return {
        "image": image,
        "labels": torch.stack([sample["labels"] for sample in good]),
        "generated": torch.tensor(["clean" in sample for sample in good]),
        "clean": torch.stack(clean) if clean else image[:0],
    }
