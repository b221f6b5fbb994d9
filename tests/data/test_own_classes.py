"""Label files in sets of one's own, and the public layouts in other sets than Cityscapes' 19."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.check import check, data_check
from clouds_deploy.data.images import write_png
from clouds_deploy.data.labelled import describe
from clouds_deploy.data.layouts import Reading
from clouds_deploy.data.sources import LayoutSource, train_source
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES, IGNORE, label_set, shipped_set

TREE: dict[str, Any] = {
    "classes": [
        {"name": "sky", "color": [10, 20, 30]},
        {"name": "crane", "ids": [7, 8], "color": [200, 10, 10]},
        {"name": "ground", "ids": [300], "color": [0, 200, 0]},
    ]
}
TRUTH = np.array([[0, 0, 1], [1, 2, IGNORE]], np.uint8)


def folder(root: Path, labels: Image.Image | np.ndarray) -> Path:
    write_png(root / "images" / "a.png", np.zeros((2, 3, 3), np.uint8))
    (root / "labels").mkdir()
    image = labels if isinstance(labels, Image.Image) else Image.fromarray(labels)
    image.save(root / "labels" / "a.png")
    return root


def read(root: Path, tree: dict[str, Any], **reading: Any) -> np.ndarray:
    made = Reading(label_set(tree, "own"), **reading)
    labels = LayoutSource("folder", root, "all", made).load(0)[1]
    assert labels is not None
    return labels


def test_ids_of_up_to_16_bits(tmp_path: Path) -> None:
    raw = np.array([[0, 0, 7], [8, 300, 255]], np.uint16)
    assert np.array_equal(read(folder(tmp_path, raw), TREE), TRUTH)


def test_instances(tmp_path: Path) -> None:
    tree = {
        "format": "instances",
        "classes": [TREE["classes"][0], TREE["classes"][1], {"name": "x", "ids": 9}],
    }
    raw = np.array([[0, 0, 7001], [8042, 9003, 255]], np.uint16)
    assert np.array_equal(read(folder(tmp_path, raw), tree), TRUTH)


def test_colours_as_rgb_and_as_a_palette(tmp_path: Path) -> None:
    tree = {**TREE, "format": "colors"}
    colors = np.zeros((256, 3), np.uint8)
    colors[:3] = [c["color"] for c in TREE["classes"]]
    assert np.array_equal(read(folder(tmp_path / "rgb", colors[TRUTH]), tree), TRUTH)
    image = Image.fromarray(np.array([[3, 3, 1], [1, 2, 0]], np.uint8))  # numbers that mean nothing
    image.putpalette(np.array([[0, 0, 0], *colors[[1, 2, 0]]], np.uint8).tobytes())
    assert np.array_equal(read(folder(tmp_path / "palette", image), tree), TRUTH)


def test_unknown_ids_and_colours_are_named_or_void(tmp_path: Path) -> None:
    root = folder(tmp_path / "ids", np.array([[0, 0, 7], [8, 44, 255]], np.uint8))
    with pytest.raises(CloudsError, match=r"holds label id 44 \(1 pixels\), which ids of label set own"):
        read(root, TREE)
    assert read(root, {**TREE, "ignore": "void"})[1].tolist() == [1, IGNORE, IGNORE]
    colors = np.zeros((2, 3, 3), np.uint8)
    colors[0] = 10, 20, 30
    colors[1, 2] = 11, 20, 30
    root = folder(tmp_path / "colors", colors)
    with pytest.raises(CloudsError, match=r"holds colours .* \[11, 20, 30\] \(1 pixels\)"):
        read(root, {**TREE, "format": "colors"})
    assert read(root, {**TREE, "format": "colors", "ignore": "void"})[1].tolist() == [IGNORE] * 3
    (bad,) = check(root, "folder", reading=Reading(label_set({**TREE, "format": "colors"}, "own"))).bad_files
    assert "[11, 20, 30]" in bad.fault


def test_255_classes_leave_no_id_for_unknown_ones(tmp_path: Path) -> None:
    tree = {"classes": [f"c{i}" for i in range(255)]}
    raw = np.array([[0, 127, 128], [253, 254, 255]], np.uint8)
    assert np.array_equal(read(folder(tmp_path, raw), tree), raw)


def test_a_folder_of_one_set_for_a_model_of_another(tmp_path: Path) -> None:
    root = folder(tmp_path, np.array([[0, 0, 7], [8, 300, 255]], np.uint16))
    files = label_set(TREE, "files", "files")
    model = label_set({"classes": ["machine", "sky"]}, "model", "model")
    source = LayoutSource("folder", root, "all", Reading(model, files, {"crane": "machine"}))
    assert source.load(0)[1].tolist() == [[1, 1, 0], [0, IGNORE, IGNORE]]
    (facts,) = describe(source)
    assert facts["labels"] == "ids of label set files, as classes of model"
    assert facts["ignored"] == ["ground"]


def test_a_public_layout_in_a_finer_set(tmp_path: Path) -> None:
    """Cityscapes' 34 ids are all there, also where maps of the 19 lie beside them."""
    stem = "aachen_000000_000019"
    write_png(tmp_path / f"leftImg8bit/train/aachen/{stem}_leftImg8bit.png", np.zeros((1, 4, 3), np.uint8))
    place = tmp_path / "gtFine/train/aachen"
    write_png(place / f"{stem}_gtFine_labelIds.png", np.array([[7, 9, 29, 26]], np.uint8))
    write_png(place / f"{stem}_gtFine_labelTrainIds.png", np.array([[0, 255, 255, 13]], np.uint8))
    assert LayoutSource("cityscapes", tmp_path, "train").load(0)[1].tolist() == [[0, 255, 255, 13]]
    fine = LayoutSource("cityscapes", tmp_path, "train", Reading(shipped_set("cityscapes34")))
    assert fine.load(0)[1].tolist() == [[7, 9, 29, 26]]
    own = label_set({"classes": ["vehicle", "road"]}, "own")
    mapped = Reading(own, mapping={"car": "vehicle", "caravan": "vehicle", "road": None})
    assert LayoutSource("cityscapes", tmp_path, "train", mapped).load(0)[1].tolist() == [[255, 255, 0, 0]]


def test_streets_in_other_classes() -> None:
    def recipe(**data: Any) -> Recipe:
        return Recipe(name="x", data={"height": 32, "width": 64, "train_images": 2, **data})

    plain = train_source(recipe()).load(0)[1]
    own = {"classes": ["vehicle", "road", "sky"]}
    source = train_source(recipe(classes=own, map={"car": "vehicle", "bus": "vehicle"}))
    labels = source.load(0)[1]
    assert plain is not None
    assert labels is not None
    expected = np.full(plain.shape, IGNORE, np.uint8)
    for name, target in {"car": 0, "bus": 0, "road": 1, "sky": 2}.items():
        expected[plain == CITYSCAPES.index(name)] = target
    assert np.array_equal(labels, expected)
    assert "bicycle" in describe(source)[0]["ignored"]


def test_maps_of_unknown_names_are_refused() -> None:
    own = {"classes": ["vehicle", "road"]}
    with pytest.raises(CloudsError, match=r"takes `car` to `vehicel`, which label set `own` lacks") as caught:
        Recipe(name="x", data={"classes": own, "map": {"car": "vehicel"}})
    assert "vehicle" in caught.value.hint
    recipe = Recipe(name="x", data={"classes": own, "map": {"cart": "vehicle"}})
    with pytest.raises(CloudsError, match="names the class `cart`, which the data do not have"):
        train_source(recipe)


def test_a_check_counts_in_the_set_that_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", np.array([[0, 0, 7], [8, 9, 255]], np.uint8))
    path = tmp_path / "own.json"
    path.write_text('{"classes": ["a", {"name": "b", "ids": [7, 8]}, {"name": "c", "ids": 9}]}')
    found = data_check(root, classes=path)
    assert {name: one["pixels"] for name, one in found["classes"].items()} == {
        "a": 2,
        "b": 2,
        "c": 1,
        "ignored": 1,
    }
    assert (found["label_set"], found["bad_files"]) == ("own", [])
    assert data_check(root)["label_set"] == "cityscapes19"
