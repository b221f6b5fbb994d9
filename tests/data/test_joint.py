from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from clouds_deploy.data.dataset import TrainDataset, training_loader
from clouds_deploy.data.joint import JointDataset, JointKeys, stack_joint
from clouds_deploy.data.sources import ImageSource, StreetsSource
from clouds_deploy.data.transforms import GeneratedTransform, TrainTransform
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import IGNORE
from tests.data.trees import picture, save


def test_both_kinds_keep_their_share_and_come_in_rounds() -> None:
    batches = list(islice(JointKeys(10, 4, 0.3, 5, 0, 8), 50))
    keys = [key for batch in batches for key in batch]
    generated = [index for index, _ in keys if index >= 10]
    labelled = [index for index, _ in keys if index < 10]
    assert len(generated) == int(400 * 0.3)
    assert {sum(index >= 10 for index, _ in batch) for batch in batches} == {2, 3}
    assert set(Counter(generated).values()) == {30}
    assert set(Counter(labelled).values()) == {28}
    assert sorted(generated[:4]) == [10, 11, 12, 13]
    assert generated[:4] != generated[4:8] or generated[:8] != generated[8:16]
    assert len({seed for _, seed in keys}) == 400


def test_a_batch_does_not_depend_on_where_one_begins() -> None:
    whole = list(islice(JointKeys(7, 5, 0.28, 0, 0, 4), 30))
    assert list(islice(JointKeys(7, 5, 0.28, 0, 13, 4), 17)) == whole[13:]
    assert list(islice(JointKeys(7, 5, 0.28, 1, 0, 4), 30)) != whole


def dataset(**given: object) -> JointDataset:
    labelled = TrainDataset(StreetsSource("game", 0, 3, 64, 128), TrainTransform((64, 64)))
    generated = StreetsSource("imagined", 0, 2, 64, 128)
    return JointDataset(labelled, generated, GeneratedTransform(crop=(64, 64)), **given)  # type: ignore[arg-type]


def test_batches_of_both_kinds() -> None:
    batch = next(iter(training_loader(dataset(), JointKeys(3, 2, 0.5, 0, 0, 4), 0, stack_joint)))
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["generated"].tolist() == [False, True, False, True]
    assert batch["clean"].shape == (2, 3, 64, 64)
    assert (batch["labels"][1] == IGNORE).all()
    assert (batch["labels"][0] < 19).any()
    none = next(iter(training_loader(dataset(), JointKeys(3, 2, 0.01, 0, 0, 4), 0, stack_joint)))
    assert none["clean"].shape == (0, 3, 64, 64)


def test_pseudo_labels_are_cut_like_their_image() -> None:
    source = StreetsSource("imagined", 0, 2, 64, 128)
    truth = {source.name(i): source.load(i)[1] for i in range(2)}
    with_labels = dataset(labels=truth.__getitem__)
    for seed in range(6):
        sample = with_labels[3 + seed % 2, seed]
        assert isinstance(sample, dict)
        image, labels = source.load(seed % 2)
        assert labels is not None
        both = np.concatenate((image, labels[..., None]), -1)
        views = [v for v in (both, both[:, ::-1]) for _ in (0,)]
        found = torch.cat((sample["clean"], sample["labels"][None])).permute(1, 2, 0).numpy()
        cuts = [view[:, x : x + 64] for view in views for x in range(65)]
        assert any(np.array_equal(cut, found) for cut in cuts)


def test_a_broken_file_is_handed_on(tmp_path: Path) -> None:
    save(tmp_path / "images" / "a.png", picture(0))
    save(tmp_path / "images" / "deep" / "a.png", picture(1))
    (tmp_path / "images" / "b.png").write_bytes(b"\x89PNG broken")
    source = ImageSource(tmp_path)
    assert [source.name(i) for i in range(3)] == ["a_png", "b_png", "deep/a_png"]
    assert np.array_equal(source.load(2)[0], picture(1))
    assert len(ImageSource(tmp_path, 2)) == 2
    with pytest.raises(CloudsError, match="holds 3 images, not 4"):
        ImageSource(tmp_path, 4)
    with pytest.raises(CloudsError, match="no folder"):
        ImageSource(tmp_path / "nothing")
    mixed = JointDataset(dataset().labelled, source, GeneratedTransform())
    with pytest.raises(CloudsError, match=r"b\.png"):
        next(training_loader(mixed, [[(0, 0), (4, 0)]], 0, stack_joint))  # type: ignore[arg-type]
