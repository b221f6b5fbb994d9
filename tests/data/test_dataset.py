from __future__ import annotations

import os
import signal
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from clouds_deploy.data.dataset import TrainDataset, TrainingKeys, training_loader
from clouds_deploy.data.sources import LayoutSource, StreetsSource
from clouds_deploy.data.transforms import TrainTransform
from clouds_deploy.errors import CloudsError
from tests.data import trees

TRANSFORM = TrainTransform((32, 32))


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    whole = list(islice(TrainingKeys(10, 3, 0, 4), 12))
    for start in (1, 5, 11):
        assert list(islice(TrainingKeys(10, 3, start, 4), 12 - start)) == whole[start:]
    assert list(islice(TrainingKeys(10, 4, 0, 4), 12)) != whole


def test_every_round_sees_every_image_once() -> None:
    flat = [key for batch in islice(TrainingKeys(10, 0, 0, 4), 10) for key in batch]
    for start in range(0, 40, 10):
        assert sorted(index for index, _ in flat[start : start + 10]) == list(range(10))
    assert len({seed for _, seed in flat}) == 40


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_in_any_process(tmp_path: Path, workers: int) -> None:
    source = LayoutSource("folder", trees.folder(tmp_path), "all")
    dataset = TrainDataset(source, TRANSFORM)
    batches = training_loader(dataset, TrainingKeys(3, 0, 0, 2), workers)
    expected = training_loader(dataset, TrainingKeys(3, 0, 0, 2), 0)
    for mine, other in islice(zip(batches, expected, strict=False), 4):
        assert mine["image"].shape == (2, 3, 32, 32)
        assert mine["labels"].shape == (2, 32, 32)
        assert torch.equal(mine["image"], other["image"])
        assert torch.equal(mine["labels"], other["labels"])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_file_in_a_worker_is_one_error(tmp_path: Path, workers: int) -> None:
    root = trees.folder(tmp_path)
    (root / "images" / "a1.png").write_bytes(b"broken")
    dataset = TrainDataset(LayoutSource("folder", root, "all"), TRANSFORM)
    with pytest.raises(CloudsError, match=r"a1\.png is not an image") as caught:
        list(islice(training_loader(dataset, TrainingKeys(3, 0, 0, 3), workers), 1))
    assert caught.value.hint


def test_unlabelled_images_are_refused(tmp_path: Path) -> None:
    trees.save(tmp_path / "x.png", trees.picture(0))
    dataset = TrainDataset(LayoutSource("folder", tmp_path, "all"), TRANSFORM)
    with pytest.raises(CloudsError, match="has no labels"):
        next(training_loader(dataset, TrainingKeys(1, 0, 0, 1), 0))


def test_streets_by_number() -> None:
    source = StreetsSource("game", 1, 5, 64, 128)
    image, labels = source.load(2)
    assert len(source) == 5
    assert image.shape == (64, 128, 3)
    assert labels is not None
    assert labels.shape == (64, 128)
    assert source.name(2) != source.name(3)


def test_a_worker_that_the_system_ends_is_one_error() -> None:
    class Deadly(StreetsSource):
        def load(self, index: int) -> tuple[np.ndarray, np.ndarray | None]:
            os.kill(os.getpid(), signal.SIGKILL)
            return super().load(index)

    dataset = TrainDataset(Deadly("game", 1, 5, 64, 128), TRANSFORM)
    with pytest.raises(CloudsError, match="the system ended a process") as caught:
        next(training_loader(dataset, TrainingKeys(5, 0, 0, 2), 1))
    assert "train.workers" in caught.value.hint


def test_nothing_is_drawn_from_the_global_generator(tmp_path: Path) -> None:
    dataset = TrainDataset(LayoutSource("folder", trees.folder(tmp_path), "all"), TRANSFORM)
    before = torch.get_rng_state()
    next(training_loader(dataset, TrainingKeys(3, 0, 0, 2), 0))
    assert torch.equal(torch.get_rng_state(), before)
