from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.data.layouts import LAYOUTS, get_layout
from clouds_deploy.errors import CloudsError
from tests.data import trees


@pytest.mark.parametrize("ids", [False, True], ids=["labelTrainIds", "labelIds"])
def test_cityscapes(tmp_path: Path, ids: bool) -> None:
    layout = get_layout("cityscapes")
    root = trees.cityscapes(tmp_path, ids=ids)
    assert layout.splits(root) == ("train", "val")
    samples = layout.scan(root, "val")
    assert [s.name for s in samples] == [f"town_{n:06d}_000019" for n in range(3)]
    image, labels = layout.load(samples[1])
    assert np.array_equal(image, trees.picture(1))
    assert np.array_equal(labels, trees.train_ids(1))


def test_train_ids_are_preferred(tmp_path: Path) -> None:
    root = trees.cityscapes(trees.cityscapes(tmp_path, ids=True))
    (first, *_) = get_layout("cityscapes").scan(root, "train")
    assert first.labels is not None
    assert first.labels.name.endswith("_labelTrainIds.png")


@pytest.mark.parametrize("split", ["", "val"])
def test_folder(tmp_path: Path, split: str) -> None:
    layout = get_layout("folder")
    root = trees.folder(tmp_path, split=split)
    image, labels = layout.load(layout.scan(root, "val")[2])
    assert np.array_equal(image, trees.picture(2))
    assert np.array_equal(labels, trees.train_ids(2))


def test_a_folder_of_images_is_unlabelled(tmp_path: Path) -> None:
    trees.save(tmp_path / "x.png", trees.picture(0))
    (sample,) = get_layout("folder").scan(tmp_path, "all")
    assert sample.labels is None
    assert get_layout("folder").load(sample)[1] is None


def expect(message: str, hint: str, function: object, *arguments: object) -> None:
    with pytest.raises(CloudsError) as caught:
        function(*arguments)  # type: ignore[operator]
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_wrong_roots_and_names(tmp_path: Path) -> None:
    layout = get_layout("cityscapes")
    expect("no folder", "data.root", layout.scan, tmp_path / "nowhere", "train")
    expect("is empty", "leftImg8bit", layout.scan, tmp_path, "train")
    trees.folder(tmp_path / "f")
    expect("does not have layout `cityscapes`", "--layout folder", layout.scan, tmp_path / "f", "train")
    trees.cityscapes(tmp_path / "c")
    expect(
        "not have layout `folder`", "--layout cityscapes", get_layout("folder").scan, tmp_path / "c", "train"
    )
    expect("no split `test`", "`train`, `val`", layout.scan, tmp_path / "c", "test")
    expect("no layout `cityscape`", "`cityscapes`", get_layout, "cityscape")
    (tmp_path / "c" / "leftImg8bit" / "test").mkdir()
    expect("holds no images", "leftImg8bit", layout.scan, tmp_path / "c", "test")


def test_a_foreign_label_id_is_named(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    layout = get_layout("cityscapes")
    sample = layout.scan(root, "train")[0]
    labels = trees.train_ids(0)
    labels[4, :5] = 77
    assert sample.labels is not None
    trees.save(sample.labels, labels)
    expect("label id 77 (5 pixels)", "0 = road", layout.load, sample)
    with pytest.raises(CloudsError, match=sample.labels.name):
        layout.load(sample)


def test_a_label_map_of_another_size_is_named(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    sample = get_layout("folder").scan(root, "all")[0]
    assert sample.labels is not None
    trees.save(sample.labels, trees.train_ids(0, 16, 48))
    expect("is 48x16, its image", "its own image", get_layout("folder").load, sample)


def test_every_layout_is_under_its_own_name() -> None:
    assert all(name == layout.name for name, layout in LAYOUTS.items())


def test_a_folder_too_deep_is_told(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path / "c")
    expect("does not have layout", str(root), get_layout("cityscapes").scan, root / "leftImg8bit", "train")


def test_hidden_files_are_no_samples(tmp_path: Path) -> None:
    root = trees.folder(tmp_path)
    (root / "images" / "._a0.png").write_bytes(b"left by a Mac")
    assert len(get_layout("folder").scan(root, "all")) == 3


def test_gta5(tmp_path: Path) -> None:
    """Raw ids under plain names, the licence plate's 34 among them; converted maps are known by theirs."""
    trees.save(tmp_path / "images" / "00001.png", trees.picture(0))
    ids = np.full((32, 48), 7, np.uint8)
    ids[0], ids[1], ids[2] = 34, 26, 33
    trees.save(tmp_path / "labels" / "00001.png", ids)
    layout = get_layout("gta5")
    labels = layout.load(layout.scan(tmp_path, "train")[0])[1]
    assert labels is not None
    assert [int(v) for v in labels[:4, 0]] == [255, 13, 18, 0]
    ids[5] = 35
    trees.save(tmp_path / "labels" / "00001.png", ids)
    expect("label id 35", "GTA5 ids", layout.load, layout.scan(tmp_path, "train")[0])
