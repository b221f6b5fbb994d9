"""Every release's tree in miniature: read, checked, broken on purpose, trained on and evaluated."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.data.check import check
from clouds_deploy.data.layouts import LAYOUTS, claimants, detect, get_layout
from clouds_deploy.data.layouts.gta5 import LEFT_OUT
from clouds_deploy.data.layouts.mapillary import v1_ids, v2_class
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import IGNORE, NAMES
from tests.data import trees
from tests.data.trees import TREES
from tests.training.small import small_recipe

every_tree = pytest.mark.parametrize("kind", TREES)


def test_every_layout_has_a_tree() -> None:
    assert {tree.layout for tree in TREES.values()} == set(LAYOUTS)


@every_tree
def test_labels_are_what_they_were_made_of(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind]
    layout = get_layout(tree.layout)
    root = tree.build(tmp_path / "data", 3)
    assert layout.splits(root) == tree.splits
    for split in ("train", "val"):
        samples = layout.scan(root, split)
        assert len({sample.name for sample in samples}) == len(samples)
        for number, sample in enumerate(samples):
            image, labels = layout.load(sample)
            assert image.shape == (32, 48, 3)
            assert labels is not None
            assert np.array_equal(labels, trees.train_ids(number % 3))


@every_tree
def test_a_sound_tree_passes_under_the_layout_it_looks_like(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind]
    report = check(tree.build(tmp_path / "data", 3)).to_dict()
    assert report["layout"] == tree.layout
    assert report["bad_files"] == []
    unlabelled = sum(number for split, number in report["splits"].items() if split == "test")
    assert report["images"] == report["labels"] + unlabelled == sum(report["splits"].values())
    assert report["sizes"] == {"48x32": report["images"]}
    pixels = Counter(
        {name: np.count_nonzero([trees.train_ids(n) == i for n in range(3)]) for i, name in enumerate(NAMES)}
    )
    times = report["labels"] // 3
    assert {name: report["classes"][name]["pixels"] for name in NAMES} == {
        n: times * pixels[n] for n in NAMES
    }


@every_tree
def test_every_broken_file_is_named(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind]
    layout = get_layout(tree.layout)
    root = tree.build(tmp_path / "data", 6)
    samples = layout.scan(root, "val")
    images = [sample.image for sample in samples]
    labels = [sample.labels for sample in samples if sample.labels is not None]
    images[0].write_bytes(images[0].read_bytes()[: images[0].stat().st_size // 2])
    tree.save_ids(labels[1], np.zeros((16, 48), np.uint8))
    ids = np.full((32, 48), tree.last_id, np.uint8)
    tree.save_ids(labels[2], ids)  # the last one there is: no fault
    ids[3, :7] = tree.last_id + 1
    tree.save_ids(labels[3], ids)
    orphan = labels[4].with_name(labels[4].name.replace(images[4].name[:2], "zz", 1))
    labels[4].rename(orphan)
    labels[5].write_bytes(labels[5].read_bytes()[:50])
    faults = {bad.path: bad.fault for bad in check(root, split="val").bad_files}
    expected = {
        images[0]: "damaged",
        labels[1]: "is 48x16, its image",
        labels[3]: f"label id {tree.last_id + 1} (7 pixels)",
        images[4]: "the image has no labels",
        orphan: "the label map has no image",
        labels[5]: str(labels[5]),
    }
    assert set(faults) == {str(path) for path in expected}
    for path, fault in expected.items():
        assert fault in faults[str(path)]


@every_tree
def test_one_step_of_training_and_an_evaluation(tmp_path: Path, kind: str) -> None:
    from clouds_deploy.training.segmenter.loop import train

    tree = TREES[kind]
    root = tree.build(tmp_path / "data", 2)
    data = (f"data.layout={tree.layout}", f"data.root={root}", "data.val_images=null")
    steps = ("train.steps=1", "train.warmup_steps=0", "train.eval_every=0", "train.batch_size=1")
    result = train(small_recipe(*data, *steps, "augment.crop=[32, 64]"), tmp_path / "run")
    assert result["steps"] == 1
    assert result["images"] == len(get_layout(tree.layout).scan(root, "val"))
    assert result["per_class"].keys() == set(NAMES)
    there = {int(i) for n in range(2) for i in np.unique(trees.train_ids(n))} - {IGNORE}
    assert {name for name, iou in result["per_class"].items() if iou is not None} == {NAMES[i] for i in there}


def test_a_release_with_both_label_sets_is_not_guessed(tmp_path: Path) -> None:
    trees.mapillary_v2(trees.mapillary(tmp_path, labels="v1.2/labels"))
    with pytest.raises(CloudsError, match="`mapillary` and `mapillary-v2`") as caught:
        check(tmp_path)
    assert "--layout mapillary-v2 (" in caught.value.hint
    for layout in ("mapillary", "mapillary-v2"):
        assert not check(tmp_path, layout).bad_files


def test_what_no_layout_fits_is_told_with_all_that_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(CloudsError, match="has no known layout") as caught:
        detect(tmp_path)
    for layout in LAYOUTS.values():
        assert f"{layout.name}: {layout.expects}" in caught.value.hint
    with pytest.raises(CloudsError, match="is empty"):
        detect(tmp_path / "a" / "b")
    with pytest.raises(CloudsError, match="there is no folder"):
        detect(tmp_path / "c")
    root = trees.acdc(tmp_path / "a" / "acdc")
    for beside in (root.parent, root / "gt"):
        with pytest.raises(CloudsError) as caught:
            detect(beside)
        assert f"give {root} instead" in caught.value.hint


def test_a_plain_folder_of_numbered_files_is_not_taken_for_gta5(tmp_path: Path) -> None:
    """Its train ids are all legal ids of GTA5, so nothing but this would tell that they were misread."""
    for number in (1, 2):
        trees.save(tmp_path / "images" / f"{number:05d}.png", trees.picture(number))
        trees.save(tmp_path / "labels" / f"{number:05d}.png", trees.train_ids(number))
    assert [layout.name for layout in claimants(tmp_path)] == ["folder"]


@pytest.mark.parametrize("kind", ["synthia", "bdd100k", "bdd100k-older"])
def test_the_folder_that_an_archive_makes_may_be_given_or_the_one_above(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind]
    below = {"synthia": "RAND_CITYSCAPES"}.get(kind, "bdd100k")
    root = tree.build(tmp_path / below if kind == "synthia" else tmp_path, 3)
    for given in (root, root.parent) if kind == "synthia" else (root, root / below):
        assert detect(given).name == tree.layout
        assert len(get_layout(tree.layout).scan(given, "val")) == 3


def test_gta5_leaves_out_what_the_release_got_wrong(tmp_path: Path) -> None:
    assert len(LEFT_OUT) == 24966 - 24904
    root = trees.gta5(tmp_path, 2)
    for number in sorted(LEFT_OUT)[:3]:
        trees.save(root / "images" / f"{number:05d}.png", trees.picture(0))
        trees.save_palette(root / "labels" / f"{number:05d}.png", np.zeros((8, 8), np.uint8))
    report = check(root)
    assert report.splits == {"all": 2}
    assert report.left_out == 3
    assert not report.bad_files


def test_the_splits_of_gta5s_own_file(tmp_path: Path) -> None:
    from scipy.io import savemat

    root = trees.gta5(tmp_path, 5)
    savemat(root / "split.mat", {"trainIds": [[1], [4]], "valIds": [[2]], "testIds": [[3], [5]]})
    layout = get_layout("gta5")
    assert layout.splits(root)[-3:] == ("mat-train", "mat-val", "mat-test")
    assert [sample.name for sample in layout.scan(root, "mat-train")] == ["00001", "00004"]
    assert [sample.name for sample in layout.scan(root, "mat-val")] == ["00002"]
    assert len(layout.scan(root, "train")) == 5
    assert not check(root, split="mat-test").bad_files
    savemat(root / "split.mat", {"trainIds": [[1]]})
    with pytest.raises(CloudsError, match=r"split\.mat does not list `valIds`"):
        layout.scan(root, "mat-val")


def test_synthias_converted_labels_are_read_in_their_place(tmp_path: Path) -> None:
    root = trees.synthia(tmp_path)
    for number in range(3):
        path = root / "GT" / "LABELS" / f"{number:07d}_labelTrainIds.png"
        trees.save(path, trees.train_ids(number + 1))
    layout = get_layout("synthia")
    labels = layout.load(layout.scan(root, "train")[0])[1]
    assert labels is not None
    assert np.array_equal(labels, trees.train_ids(1))
    assert not check(root).bad_files


def test_acdc_by_condition(tmp_path: Path) -> None:
    root = trees.acdc(tmp_path)
    layout = get_layout("acdc")
    night = layout.scan(root, "val-night")
    assert [s.name for s in night] == [
        "night/val/GOPR0000/GOPR_frame_000000",
        "night/val/GOPR0000/GOPR_frame_000001",
        "night/val/GOPR0001/GOPR_frame_000002",
    ]
    assert len(layout.scan(root, "val")) == 6
    assert check(root).splits == {"train": 6, "val": 6}


def test_the_ids_of_mapillary_v1() -> None:
    table = v1_ids().table
    assert {raw: int(table[raw]) for raw in range(66) if table[raw] != IGNORE} == trees.MAPILLARY_V1


def test_mapillarys_ids_come_from_the_names_in_its_own_file(tmp_path: Path) -> None:
    root = trees.mapillary_v2(tmp_path / "v2")
    config = root / "config_v2.0.json"
    layout = get_layout("mapillary-v2")
    sample = layout.scan(root, "val")[0]
    told = json.loads(config.read_text())
    told["labels"].insert(0, {"name": "object--new"})
    config.write_text(json.dumps(told))
    after = layout.load(sample)[1]
    assert after is not None
    assert not np.array_equal(after, trees.train_ids(0))  # the same ids are other classes now
    told["labels"] = [entry for entry in told["labels"] if entry["name"] != "nature--sky"]
    config.write_text(json.dumps(told))
    with pytest.raises(CloudsError, match="has no class for sky"):
        layout.scan(root, "val")
    config.write_text("{}")
    with pytest.raises(CloudsError, match="lists no class names"):
        layout.scan(root, "val")
    config.unlink()
    with pytest.raises(CloudsError, match=r"no config_v2\.0\.json") as caught:
        layout.scan(root, "val")
    assert "--layout mapillary" in caught.value.hint
    old = trees.mapillary(tmp_path / "v1")
    shutil.copy(trees.mapillary_v2(tmp_path / "again") / "config_v2.0.json", old / "config.json")
    with pytest.raises(CloudsError, match="person"):  # another release's class list
        get_layout("mapillary").scan(old, "val")


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("construction--flat--road", "road"),
        ("construction--flat--service-lane", None),
        ("marking--continuous--dashed", "road"),
        ("marking--discrete--arrow--left", "road"),
        ("marking--discrete--crosswalk-zebra", None),
        ("marking-only--discrete--crosswalk-zebra", None),
        ("marking-only--discrete--text", "road"),
        ("construction--structure--garage", "building"),
        ("human--person--person-group", "person"),
        ("object--support--pole-group", "pole"),
        ("object--support--traffic-sign-frame", None),
        ("object--traffic-light--pedestrians", "traffic light"),
        ("object--traffic-sign--back", None),
        ("object--traffic-sign--direction-back", None),
        ("object--traffic-sign--direction-front", "traffic sign"),
        ("object--vehicle--vehicle-group", None),
        ("void--unlabeled", None),
    ],
)
def test_the_classes_of_mapillary_v2(name: str, known: str | None) -> None:
    assert v2_class(name) == known
