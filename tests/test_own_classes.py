"""Twelve classes that aren't Cityscapes', colour-coded, through every stage; 2 to 255 classes as graphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import clouds_deploy
from clouds_deploy.artifacts import read_json, read_manifest
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.data.images import read_image, read_label_ids, write_png
from clouds_deploy.data.overlay import overlay_with_legend
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.export import export
from clouds_deploy.export.gates import street_images
from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.labels import CITYSCAPES, LabelSet, label_set, load_label_set, named_set
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.scores import labels_at
from clouds_deploy.models.clouds.segmenter import Segmenter, build_segmenter
from clouds_deploy.models.clouds.store import load_run
from clouds_deploy.serving.model import ServedModel
from clouds_deploy.serving.triton.repository import write_repository
from clouds_deploy.streets import render
from clouds_deploy.training.segmenter.initial import initial_segmenter
from tests.conftest import HEIGHT, WIDTH, write_run
from tests.parity.test_text_head import CONVNEXT, model
from tests.training.small import small_recipe

MERGED = {
    "drivable": ["road"],
    "walkway": ["sidewalk"],
    "structure": ["building", "wall", "fence"],
    "mast": ["pole"],
    "signal": ["traffic light"],
    "board": ["traffic sign"],
    "greenery": ["vegetation", "terrain"],
    "heavens": ["sky"],
    "human": ["person", "rider"],
    "vehicle": ["car", "truck", "bus"],
    "rail": ["train"],
    "two wheels": ["motorcycle", "bicycle"],
}
MAP = {name: target for target, names in MERGED.items() for name in names}
SMALL = ("mast", "signal", "board", "human", "two wheels")
THINGS = ("human", "vehicle", "rail", "two wheels")
SETTINGS = (
    "train.steps=3",
    "train.eval_every=0",
    "train.checkpoint_every=100",
    "export.fp16={label_agreement: 0.9, relative_error: 0.2, max_score_error: 1, cosine: 0.9}",
)


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic streets with colour-coded masks, and its label set."""
    root = tmp_path_factory.mktemp("sites")
    classes = [
        {
            "name": name,
            "color": [20 * index + 10, 255 - 20 * index, (70 * index) % 256],
            **({"group": "traffic"} if name in ("vehicle", "rail") else {}),
            **({"thing": True} if name in THINGS else {}),
            **({"small": True} if name in SMALL else {}),
        }
        for index, name in enumerate(MERGED)
    ]
    tree = {"format": "colors", "ignore": [255, 255, 255], "classes": classes}
    (root / "sites.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    own = load_label_set(root / "sites.yaml")
    table = np.array([own.index(MAP[name]) for name in CITYSCAPES.names])
    for split, count in (("train", 4), ("val", 2)):
        for index in range(count):
            scene = render("game", len(split), index, HEIGHT, WIDTH)
            write_png(root / split / "images" / f"{index}.png", scene.image)
            write_png(root / split / "labels" / f"{index}.png", own.palette()[table[scene.labels]])
    return root


@pytest.fixture(scope="module")
def own(sites: Path) -> LabelSet:
    return load_label_set(sites / "sites.yaml")


@pytest.fixture(scope="module")
def run(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "run"
    text = small_recipe(*SETTINGS).to_yaml()
    (out.parent / "recipe.yaml").write_text(text, encoding="utf-8")
    data = ("data.layout=folder", f"data.root={sites}", f"data.classes={sites / 'sites.yaml'}")
    found = clouds_deploy.train(out.parent / "recipe.yaml", overrides=data, out=out)
    assert list(found["per_class"]) == list(MERGED)
    assert found["data"]["train"][0]["labels"] == "colours of label set sites"
    return out


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("own") / "bundle"
    export(run, out=out, fp16=True, engines=("onnxruntime",))
    return out


def test_the_check_names_the_classes(sites: Path) -> None:
    found = clouds_deploy.data_check(sites, classes=sites / "sites.yaml")
    assert (found["bad_files"], found["label_set"]) == ([], "sites")
    assert list(found["classes"]) == [*MERGED, "ignored"]
    assert found["classes"]["drivable"]["pixels"] > 0


def test_the_run_carries_the_set(run: Path, own: LabelSet) -> None:
    recipe, segmenter = load_run(run)
    assert recipe.data.classes == own
    assert segmenter.mask_decoder.classify.weight.shape[0] == 13  # with void
    assert yaml.safe_load((run / "recipe.yaml").read_text())["data"]["classes"] == own.to_tree()
    assert read_manifest(run, "run")["config"]["data"]["classes"] == own.to_tree()


def test_evaluation_in_own_names(run: Path, sites: Path) -> None:
    found = clouds_deploy.evaluate(run)
    assert list(found["per_class"]) == list(MERGED)
    assert (found["images"], found["label_set"]) == (2, "sites")
    assert "miou_16" not in found
    assert clouds_deploy.evaluate(run, data=sites, layout="folder")["miou"] == found["miou"]
    # the synthetic streets are of Cityscapes' classes: the map brings them in
    streets = clouds_deploy.evaluate(run, layout="streets", domain="game", images=2, map=MAP)
    assert streets["pixel_accuracy"] is not None
    assert "ignored" not in streets["read"][0]
    with pytest.raises(CloudsError, match="takes `car` to `cart`, which label set `sites` lacks"):
        clouds_deploy.evaluate(run, layout="streets", domain="game", map={"car": "cart"})


def test_a_model_of_19_classes_is_compared_in_12(small_run: Path, sites: Path, own: LabelSet) -> None:
    """As if its labels had been merged before: the same counts by hand."""
    found = clouds_deploy.evaluate(
        small_run, data=sites, layout="folder", classes=sites / "sites.yaml", map=MAP
    )
    model = open_model(small_run)
    table = np.array([own.index(MAP[name]) for name in CITYSCAPES.names], np.uint8)
    hits = total = 0
    for index in range(2):
        guess = table[model.predict(read_image(sites / "val" / "images" / f"{index}.png"))]
        colors = read_image(sites / "val" / "labels" / f"{index}.png")
        truth = (colors[..., None, :] == own.palette()[:12]).all(-1).argmax(-1)
        hits, total = hits + int((guess == truth).sum()), total + truth.size
    assert found["pixel_accuracy"] == pytest.approx(100 * hits / total)
    assert list(found["per_class"]) == list(MERGED)
    less = clouds_deploy.evaluate(
        small_run,
        data=sites,
        layout="folder",
        classes=sites / "sites.yaml",
        map={**MAP, "road": None},
    )
    assert less["unmatched"] == ["road"]
    assert less["per_class"]["drivable"] in (0, None)


def test_predictions_and_refinement(run: Path, sites: Path, own: LabelSet, tmp_path: Path) -> None:
    images = sites / "val" / "images"
    clouds_deploy.predict(run, [images], out=tmp_path / "predicted")
    picture, labels = (
        read_image(images / "0.png"),
        read_label_ids(tmp_path / "predicted" / "labels" / "0.png"),
    )
    assert labels.max() < 12
    drawn = read_image(tmp_path / "predicted" / "overlays" / "0.png")
    assert np.array_equal(drawn, overlay_with_legend(picture, labels, classes=own))
    assert not np.array_equal(drawn, overlay_with_legend(picture, labels))
    found = clouds_deploy.refine(
        "sam_tiny@128", images=images, labels=tmp_path / "predicted", out=tmp_path / "refined"
    )
    assert list(found["per_class"]) == list(MERGED)
    assert read_manifest(tmp_path / "refined", "refinement")["label_set"] == own.to_tree()


def test_refinement_of_other_classes_needs_their_set(
    sites: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids above 18 are classes in a larger set; a set without groups is refined by area, which is said."""
    plain = named_set("plain", [f"c{i}" for i in range(30)])
    (tmp_path / "plain.json").write_text(json.dumps(plain.to_tree()))
    labels = np.repeat(np.arange(HEIGHT, dtype=np.uint8)[:, None] // 16 + 24, WIDTH, 1)
    for index in range(2):
        write_png(tmp_path / "labels" / f"{index}.png", labels)
    given: dict[str, Any] = {"images": sites / "val" / "images", "labels": tmp_path / "labels"}
    with pytest.raises(CloudsError, match="no train ids: 24, 25, 26, 27"):
        clouds_deploy.refine("sam_tiny@128", **given, out=tmp_path / "a")
    found = clouds_deploy.refine(
        "sam_tiny@128", **given, out=tmp_path / "b", classes=tmp_path / "plain.json", overlays=0
    )
    assert found["per_class"]["c24"]["before"] == 0.25
    said = " ".join(capsys.readouterr().err.split())
    assert "label set plain names no groups, things or small classes: masks are judged by area alone" in said


def test_the_bundle_tells_names_and_colours(run: Path, bundle: Path, own: LabelSet, tmp_path: Path) -> None:
    import onnx

    opened = open_bundle(bundle)
    assert opened.label_set == own
    facts = read_json(bundle / "bundle.json")
    assert facts["classes"] == list(MERGED)
    assert facts["palette"] == [list(c.color) for c in own.classes]
    assert label_set(facts["label_set"], "bundle") == own
    metadata = {p.key: p.value for p in onnx.load(bundle / "segmenter.onnx").metadata_props}
    assert json.loads(metadata["classes"]) == list(MERGED)
    assert json.loads(metadata["label_set"]) == own.to_tree()
    image = read_image(Path(facts["recipe"]["data"]["root"]) / "val" / "images" / "0.png")
    assert (open_model(bundle).predict(image) == open_model(run).predict(image)).mean() > 0.9
    served = ServedModel(bundle)
    assert served.classes() == [
        {"id": c.train_id, "name": c.name, "color": list(c.color)} for c in own.classes
    ]
    served.close()
    write_repository(bundle, tmp_path / "triton")
    config = (tmp_path / "triton" / "models" / "clouds" / "config.pbtxt").read_text()
    assert json.dumps(json.dumps(list(MERGED))) in config
    found = clouds_deploy.evaluate(bundle)
    assert list(found["per_class"]) == list(MERGED)


@pytest.mark.slow
def test_the_text_head_compares_with_own_names(sites: Path, tmp_path: Path) -> None:
    """Trained, exported and evaluated with synonyms; the vocabulary has the set's names."""
    text = model(CONVNEXT)
    own = load_label_set(sites / "sites.yaml").to_tree()
    own["classes"][9]["synonyms"] = ["car", "truck", "bus"]
    (tmp_path / "sites.json").write_text(json.dumps(own), encoding="utf-8")
    recipe = small_recipe(*SETTINGS).model_copy(update={"model": text})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    given = ("data.layout=folder", f"data.root={sites}", "data.classes=sites.json")
    with pytest.raises(CloudsError, match="no label set file"):
        clouds_deploy.train(tmp_path / "recipe.yaml", overrides=given, out=tmp_path / "run")
    named = tmp_path / "recipe.yaml"
    tree = yaml.safe_load(named.read_text())
    tree["data"] |= {"layout": "folder", "root": str(sites), "classes": "sites.json"}
    named.write_text(yaml.safe_dump(tree))
    clouds_deploy.train(named, out=tmp_path / "run")
    vocabulary = load_run(tmp_path / "run")[1].vocabulary
    assert vocabulary is not None
    assert vocabulary.shape[:2] == (12, 3)
    assert not torch.equal(vocabulary[9, 0], vocabulary[9, 1])
    export(tmp_path / "run", out=tmp_path / "bundle", engines=("onnxruntime",))
    words = open_bundle(tmp_path / "bundle").vocabulary()
    assert words is not None
    assert words.names == tuple(MERGED)
    assert list(clouds_deploy.evaluate(tmp_path / "bundle")["per_class"]) == list(MERGED)


def test_a_label_set_beside_the_recipe_is_found(sites: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "mine.yaml").write_text("classes: [a, b, c]\n", encoding="utf-8")
    (tmp_path / "recipe.yaml").write_text(
        "base: tiny\nname: x\ndata: {classes: mine.yaml}\n", encoding="utf-8"
    )
    monkeypatch.chdir(sites)
    assert load_recipe(str(tmp_path / "recipe.yaml")).data.classes.names == ("a", "b", "c")
    (tmp_path / "mine.yaml").unlink()
    with pytest.raises(CloudsError, match=r"no label set file mine.yaml"):
        load_recipe(str(tmp_path / "recipe.yaml"))


def test_starting_from_19_classes_keeps_rows_by_name(
    small_run: Path, small_recipe: Recipe, capsys: Any
) -> None:
    own = label_set({"classes": ["tram", "car", "road", "crane"]}, "x", "mine")
    recipe = small_recipe.model_copy(update={"data": small_recipe.data.model_copy(update={"classes": own})})
    before = load_run(small_run)[1].state_dict()
    first = initial_segmenter(recipe, small_run)
    after = first.segmenter.state_dict()
    rows = "mask_decoder.classify.weight"
    assert torch.equal(after[rows][[1, 2, 4]], before[rows][[CITYSCAPES.index("car"), 0, 19]])
    assert torch.equal(after["mask_decoder.classify.bias"][4], before["mask_decoder.classify.bias"][19])
    assert after[rows].shape == (5, before[rows].shape[1])
    others = [name for name in before if not name.startswith("mask_decoder.classify.")]
    assert all(torch.equal(after[name], before[name]) for name in others)
    assert first.facts["kept"] == ["car", "road"]
    assert first.facts["new"] == ["tram", "crane"]
    assert "bicycle" in first.facts["left"]
    again = initial_segmenter(recipe, small_run).segmenter.state_dict()
    assert torch.equal(again[rows], after[rows])  # new rows are a function of the seed
    said = capsys.readouterr().err
    assert "new: tram, crane" in said


def spread(segmenter: Segmenter) -> None:
    """Makes several classes win somewhere, as the small segmenter of the tests does."""
    with torch.no_grad():
        segmenter.mask_decoder.classify.weight.normal_(std=1.0)
        segmenter.mask_decoder.query_features.mul_(4)
        segmenter.pixel_decoder.mask_features.weight.mul_(4)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3, 150, 255])
def test_graphs_of_2_to_255_classes(small_recipe: Recipe, tmp_path: Path, count: int) -> None:
    """The gates are passed, and labels above 127 are the labels of PyTorch."""
    classes = named_set("many", [f"class {i}" for i in range(count)])
    data = small_recipe.data.model_copy(update={"classes": classes})
    recipe = small_recipe.model_copy(update={"data": data})
    torch.manual_seed(2)
    segmenter = build_segmenter(recipe.model, classes).eval()
    spread(segmenter)
    if count == 255:
        with torch.no_grad():  # the last classes win
            segmenter.mask_decoder.classify.bias[250:255] += 6
    write_run(tmp_path / "run", recipe, segmenter)
    export(tmp_path / "run", out=tmp_path / "bundle", engines=("onnxruntime",), scores=True)
    opened = open_bundle(tmp_path / "bundle")
    assert opened.outputs[1].shape[1] == count
    image = street_images(HEIGHT, WIDTH, 1)[0]
    labels = open_model(tmp_path / "bundle").predict(image)
    assert (labels == open_model(tmp_path / "run").predict(image)).mean() > 0.999
    assert labels.max() < count
    if count == 255:
        assert labels.max() >= 250


def test_labels_above_127_are_bytes(small_recipe: Recipe) -> None:
    classes = named_set("many", [f"class {i}" for i in range(255)])
    torch.manual_seed(2)
    segmenter = build_segmenter(small_recipe.model, classes).eval()
    spread(segmenter)
    with torch.no_grad():
        segmenter.mask_decoder.classify.bias[250:255] += 6
    image = torch.from_numpy(street_images(HEIGHT, WIDTH, 1))
    with torch.inference_mode():
        (labels,) = SegmenterGraph(segmenter)(image)
        scores = segmenter.scores(image.permute(0, 3, 1, 2))
    assert labels.dtype == torch.uint8
    assert 250 <= int(labels.max()) < 255
    assert torch.equal(labels.long(), scores.argmax(1))
    assert torch.equal(labels_at(scores[0], (HEIGHT, WIDTH))[0], labels[0])


def test_256_classes_are_refused(small_recipe: Recipe) -> None:
    with pytest.raises(CloudsError, match="has 256 classes, not 2 to 255"):
        named_set("many", [f"class {i}" for i in range(256)])
    with pytest.raises(CloudsError, match="has 256 classes, not 2 to 255"):
        Recipe(name="x", data={"classes": {"classes": [f"class {i}" for i in range(256)]}})


def test_losses_count_254_as_a_class_and_255_as_none() -> None:
    from clouds_deploy.training.segmenter.points import class_shares, present_classes

    labels = torch.tensor([[[254, 254], [255, 0]]], dtype=torch.uint8)
    assert present_classes(labels, 255)[0].nonzero()[:, 0].tolist() == [0, 254]
    points = torch.tensor([[[0.25, 0.25], [0.25, 0.75], [0.75, 0.75]]])
    shares = class_shares(labels, points, 255)
    assert [row.nonzero()[:, 0].tolist() for row in shares[0]] == [[254], [], [0]]
    assert present_classes(labels, 254)[0].nonzero()[:, 0].tolist() == [0]
