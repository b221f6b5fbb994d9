from __future__ import annotations

from pathlib import Path

import pytest

from clouds_deploy.data.check import check
from clouds_deploy.errors import CloudsError
from tests.data import trees


def test_a_sound_tree(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    report = check(trees.cityscapes(tmp_path), "cityscapes", progress=lambda *a: calls.append(a)).to_dict()
    assert report["images"] == report["labels"] == 6
    assert report["splits"] == {"train": 3, "val": 3}
    assert report["sizes"] == {"48x32": 6}
    assert not report["bad_files"]
    assert sum(c["share"] for c in report["classes"].values()) == pytest.approx(1)
    assert report["classes"]["ignored"]["share"] == pytest.approx(2 / 32)
    assert calls[-1] == (6, 6)


def test_every_bad_file_is_named(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path, count=6)
    images = sorted((root / "leftImg8bit" / "train" / "town").iterdir())
    labels = sorted((root / "gtFine" / "train" / "town").iterdir())
    images[0].write_bytes(images[0].read_bytes()[:200])
    images[1].write_text("no image")
    trees.save(labels[2], trees.train_ids(2, 16, 48))
    wrong = trees.train_ids(3)
    wrong[9, 9] = 77
    trees.save(labels[3], wrong)
    labels[4].unlink()
    gone = labels[4].with_name("gone_000000_000019_gtFine_labelTrainIds.png")
    trees.save(gone, trees.train_ids(0))
    report = check(root, "cityscapes")
    faults = {Path(bad.path).name: bad.fault for bad in report.bad_files}
    assert len(faults) == 6
    assert "damaged" in faults[images[0].name]
    assert "not an image" in faults[images[1].name]
    assert "16" in faults[labels[2].name]
    assert "label id 77" in faults[labels[3].name]
    assert "no labels" in faults[images[4].name]
    assert "no image" in faults[gone.name]
    assert all(bad.fix for bad in report.bad_files)
    assert not check(root, "cityscapes", split="val").bad_files


def test_one_set_is_counted_once(tmp_path: Path) -> None:
    assert check(trees.folder(tmp_path), "folder").images == 3


def test_wrong_roots_are_errors(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="is empty"):
        check(tmp_path, "cityscapes")


def test_labels_that_fit_no_image_are_not_overlooked(tmp_path: Path) -> None:
    root = trees.folder(tmp_path, count=2)
    for path in list((root / "labels").iterdir()):
        path.rename(path.with_name(f"other_{path.name}"))
    report = check(root, "folder")
    assert report.labels == 0
    assert (
        sorted(bad.fault for bad in report.bad_files)
        == ["the image has no labels"] * 2 + ["the label map has no image"] * 2
    )


def test_one_split_is_judged_by_itself(tmp_path: Path) -> None:
    trees.folder(tmp_path, split="train")
    trees.folder(tmp_path, count=5, split="val")
    report = check(tmp_path, "folder", split="train")
    assert report.splits == {"train": 3}
    assert not report.bad_files
    assert not check(tmp_path, "folder").bad_files


def test_a_broken_image_hides_no_broken_labels(tmp_path: Path) -> None:
    root = trees.folder(tmp_path, count=1)
    for path in (root / "images" / "a0.png", root / "labels" / "a0_labelTrainIds.png"):
        path.write_bytes(path.read_bytes()[:90])
    assert len(check(root, "folder").bad_files) == 2


def test_an_empty_split_is_a_fault(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    (root / "leftImg8bit" / "test").mkdir()
    (bad,) = check(root, "cityscapes").bad_files
    assert "`test`" in bad.fault
