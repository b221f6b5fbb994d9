"""How datasets are read: encodings and splits by content, and what is refused before the first step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from clouds_deploy.cli.app import app
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.check import check
from clouds_deploy.data.labelled import check_labelled, describe, shared_images
from clouds_deploy.data.layouts import detect
from clouds_deploy.data.sources import LayoutSource, select
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.datasets import parse_domain
from clouds_deploy.labels import CLASSES
from tests.data import trees
from tests.training.small import small_recipe

RAW = {c.cityscapes_id: c.train_id for c in CLASSES}


def tree(root: Path, name: str = "x{}", ids: bool = False, count: int = 4, images: str = "images") -> Path:
    for number in range(count):
        trees.save(root / images / f"{name.format(number)}.png", trees.picture(number))
        labels = trees.train_ids(number)
        saved = trees.encode(labels, RAW) if ids else labels
        trees.save(root / images.replace("images", "labels") / f"{name.format(number)}.png", saved)
    return root


@pytest.mark.parametrize("ids", [False, True], ids=["train-ids", "raw-ids"])
@pytest.mark.parametrize("name", ["x{}", "0000{}"])
@pytest.mark.parametrize("layout", ["folder", "gta5"])
def test_label_encodings_are_recognised(tmp_path: Path, layout: str, name: str, ids: bool) -> None:
    """Whatever layout is named, and whatever files are called, the content decides between the two."""
    tree(tmp_path, name, ids)
    source = LayoutSource(layout, tmp_path, "val")
    for number in range(4):
        labels = source.load(number)[1]
        assert labels is not None
        assert np.array_equal(labels, trees.train_ids(number))
    assert describe(source)[0]["labels"] == ("GTA5 ids, by content" if ids else "train ids, by content")
    assert detect(tmp_path).name == ("gta5" if ids and name == "0000{}" else "folder")
    assert not check(tmp_path, layout).bad_files
    assert parse_domain(tmp_path, usual="gta5").layout == detect(tmp_path).name


def test_one_odd_map_does_not_change_how_all_are_read(tmp_path: Path) -> None:
    tree(tmp_path)
    odd = trees.train_ids(2)
    odd[5, 5] = 25
    trees.save(tmp_path / "labels" / "x2.png", odd)
    with pytest.raises(CloudsError, match="label id 25"):
        LayoutSource("folder", tmp_path, "all").load(2)
    assert [Path(bad.path).name for bad in check(tmp_path).bad_files] == ["x2.png"]


@pytest.mark.parametrize("names", [("train", "val"), ("training", "validation"), ("train", "valid")])
@pytest.mark.parametrize("inner", [True, False])
def test_splits_below_images_are_recognised(tmp_path: Path, names: tuple[str, str], inner: bool) -> None:
    for name, count in zip(names, (4, 2), strict=True):
        tree(tmp_path, f"{name}{{}}", count=count, images=f"images/{name}" if inner else f"{name}/images")
    train, val = (LayoutSource("folder", tmp_path, split) for split in ("train", "val"))
    assert (len(train), len(val)) == (4, 2)
    assert len(LayoutSource("folder", tmp_path, "all")) == 6
    assert not {s.image for s in train.samples} & {s.image for s in val.samples}
    report = check(tmp_path)
    assert report.splits == {"train": 4, "val": 2}
    assert report.layout == "folder"
    assert not report.bad_files


def test_images_in_two_splits_are_told(tmp_path: Path) -> None:
    tree(tmp_path, "a{}", images="images/train")
    tree(tmp_path, "b{}", images="images/val", count=2)  # the same pixels under other names
    trees.save(tmp_path / "images" / "val" / "b1.png", trees.picture(7))
    train, val = (LayoutSource("folder", tmp_path, split) for split in ("train", "val"))
    assert [Path(path).name for path in shared_images(train, val)] == ["b0.png"]
    assert "1 images of `val`" in check(tmp_path).warnings[0]
    whole = LayoutSource("folder", tree(tmp_path / "flat"), "all")
    assert len(shared_images(whole, select(whole, 2))) == 2


def test_missing_labels_stop_a_training_before_it_begins(tmp_path: Path) -> None:
    from clouds_deploy.training.segmenter.loop import train

    root = trees.bdd100k(tmp_path, 4)
    gone = root / "bdd100k" / "labels" / "sem_seg" / "masks" / "train" / "0a1-b1.png"
    gone.unlink()
    recipe: Recipe = small_recipe("data.layout=bdd100k", f"data.root={root}", "train.steps=1")
    with pytest.raises(CloudsError, match="1 of 4 training images") as caught:
        train(recipe, tmp_path / "run")
    assert str(gone) in caught.value.message
    assert not (tmp_path / "run").exists()
    assert any(str(gone) in bad.fix for bad in check(root).bad_files)


def test_datasets_without_usable_labels_are_refused(tmp_path: Path) -> None:
    for number in range(2):
        trees.save(tmp_path / "void" / "images" / f"{number}.png", trees.picture(number))
        trees.save(tmp_path / "void" / "labels" / f"{number}.png", np.full((32, 48), 255, np.uint8))
    tree(tmp_path / "masks")
    (tmp_path / "masks" / "labels").rename(tmp_path / "masks" / "masks")
    tree(tmp_path / "twice", count=1)
    Image.fromarray(trees.picture(5)).save(tmp_path / "twice" / "images" / "x0.jpg")
    for name, message, fault in (
        ("void", "holds any class", "holds any class"),
        ("masks", "4 of 4 images", "no image has labels"),
        ("twice", "share the labels", "shares the labels"),
    ):
        root = tmp_path / name
        with pytest.raises(CloudsError, match=message) as caught:
            check_labelled(LayoutSource("folder", root, "all"), "images")
        (bad,) = check(root).bad_files
        assert fault in bad.fault
        assert name != "masks" or ("masks/masks" in caught.value.hint and "masks/masks" in bad.fix)


def test_linked_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path / "cs")
    for part in ("leftImg8bit", "gtFine"):
        (root / part / "train" / "town").rename(tmp_path / part)
        (root / part / "train" / "town").symlink_to(tmp_path / part)
        (tmp_path / part / "again").symlink_to(root / part / "train")
    assert check(root).splits == {"train": 3, "val": 3}


def test_data_check_prints_a_few_faults_of_each_kind(tmp_path: Path) -> None:
    tree(tmp_path, count=30)
    for number in range(29):
        (tmp_path / "labels" / f"x{number}.png").unlink()
    done = CliRunner().invoke(app, ["data", "check", str(tmp_path)])
    assert done.exit_code == 1
    assert done.stdout.count("BAD ") == 10
    assert "and 19 more of this kind" in done.stdout
    assert "29 bad files" in done.stdout
