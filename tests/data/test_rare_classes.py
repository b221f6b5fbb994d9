"""Rare-class sampling, crops with a class, and class weights."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

import clouds_deploy
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.dataset import TrainingKeys
from clouds_deploy.data.histogram import Histogram, RareClasses, count_classes
from clouds_deploy.data.joint import JointKeys
from clouds_deploy.data.sources import StreetsSource, train_source
from clouds_deploy.data.transforms import TrainTransform
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CITYSCAPES, NAMES
from tests.training.small import small_recipe

PIXELS = np.array([[90, 10, 0, 0], [100, 0, 0, 0], [80, 0, 20, 0], [95, 0, 5, 0]])
HISTOGRAM = Histogram(("common", "rare", "middling", "absent"), PIXELS)


def test_counts_are_those_of_the_label_maps(tmp_path: Path) -> None:
    source = StreetsSource("game", 2, 3, 64, 128)
    found = count_classes(source, CITYSCAPES)
    for index in range(3):
        labels = source.load(index)[1]
        assert labels is not None
        assert found.pixels[index].tolist() == [int((labels == c).sum()) for c in range(19)]
    found.save(tmp_path / "h.json")
    again = Histogram.load(tmp_path / "h.json")
    assert again.names == NAMES
    assert np.array_equal(again.pixels, found.pixels)
    (tmp_path / "h.json").write_text('{"classes": ["a"], "images": [{"3": 1}]}')
    with pytest.raises(CloudsError, match="is no histogram"):
        Histogram.load(tmp_path / "h.json")


def test_classes_are_drawn_as_in_daformer() -> None:
    """P(c) = softmax((1 - f_c) / T) over the classes there are, then an image that has the class."""
    order = RareClasses(HISTOGRAM, 0.5, 3)
    shares = np.array([365, 10, 25]) / 400
    expected = np.exp((1 - shares) / 0.5)
    expected /= expected.sum()
    np.testing.assert_allclose(order.probability[:3], expected, rtol=1e-12)
    assert order.probability[3] == 0
    drawn = [order.draw(place) for place in range(4000)]
    counts = Counter(wanted for _, wanted in drawn)
    for index, share in enumerate(expected):
        assert counts[index] / 4000 == pytest.approx(share, abs=0.03)
    assert {index for index, wanted in drawn if wanted == 1} == {0}
    assert {index for index, wanted in drawn if wanted == 2} == {2, 3}
    assert order.draw(7) == RareClasses(HISTOGRAM, 0.5, 3).draw(7)
    tiny = RareClasses(HISTOGRAM, 0.01, 3)  # exponents of hundreds do not overflow
    assert tiny.probability.sum() == pytest.approx(1)
    with pytest.raises(CloudsError, match="no training image has a class"):
        RareClasses(Histogram(("a", "b"), np.zeros((3, 2), int)), 0.01, 0)


def test_keys_do_not_depend_on_where_a_training_goes_on() -> None:
    order = RareClasses(HISTOGRAM, 0.5, 3)
    whole = list(islice(TrainingKeys(4, 3, 0, 4, order=order), 12))
    assert list(islice(TrainingKeys(4, 3, 5, 4, order=order), 7)) == whole[5:]
    assert all(len(key) == 3 for batch in whole for key in batch)
    joint = [key for batch in islice(JointKeys(4, 6, 0.25, 3, 0, 4, order=order), 10) for key in batch]
    assert Counter(len(key) for key in joint) == {3: 30, 2: 10}
    assert all((key[0] >= 4) == (len(key) == 2) for key in joint)


def test_crops_hold_the_wanted_class() -> None:
    image, labels = np.zeros((64, 256, 3), np.uint8), np.zeros((64, 256), np.uint8)
    labels[20:40, 200:220] = 7
    cropped = TrainTransform((32, 32), (1.0, 1.0), color_jitter=False, class_share=0.05)

    def shares(wanted: int | None) -> list[float]:
        return [float((cropped(image, labels, seed, wanted)[1] == 7).float().mean()) for seed in range(60)]

    without, chosen = shares(None), shares(7)
    assert sum(share >= 0.05 for share in without) < 20
    assert sum(share >= 0.05 for share in chosen) > 45
    first = [cropped(image, labels, seed)[1] for seed in range(5)]
    assert all(np.array_equal(cropped(image, labels, s, 0)[1], first[s]) for s in range(5))  # at once enough


def test_automatic_weights() -> None:
    weights = HISTOGRAM.weights("auto")
    shares = np.array([365, 10, 25]) / 400
    raw = np.clip(np.sqrt(np.median(shares) / shares), 0.25, 4)
    np.testing.assert_allclose(weights[:3] / weights[1], raw / raw[1], rtol=1e-6)
    assert (weights[:3] * np.array([4, 1, 2])).sum() / 7 == pytest.approx(1)  # the mean over segments
    assert weights[3] == 1
    assert HISTOGRAM.weights({"rare": 3.0}).tolist() == [1, 3, 1, 1]


def test_a_weight_of_no_class_is_refused() -> None:
    with pytest.raises(
        CloudsError, match="names the class `cra`, which label set `cityscapes19` lacks"
    ) as error:
        Recipe(name="x", train={"loss": {"class_weights": {"cra": 2.0}}})
    assert "car" in error.value.hint


def test_a_training_goes_by_both(tmp_path: Path) -> None:
    changes = (
        "train.steps=4",
        "train.eval_every=0",
        "train.checkpoint_every=2",
        "data.sampling=rare",
        "train.loss.class_weights=auto",
    )
    (tmp_path / "recipe.yaml").write_text(small_recipe(*changes).to_yaml(), encoding="utf-8")
    clouds_deploy.train(tmp_path / "recipe.yaml", out=tmp_path / "a")
    found = Histogram.load(tmp_path / "a" / "class_histogram.json")
    assert np.array_equal(
        found.pixels, count_classes(train_source(small_recipe(*changes)), CITYSCAPES).pixels
    )
    plain = small_recipe("train.steps=4", "train.eval_every=0", "train.checkpoint_every=2")
    (tmp_path / "plain.yaml").write_text(plain.to_yaml(), encoding="utf-8")
    clouds_deploy.train(tmp_path / "plain.yaml", out=tmp_path / "b")
    trained = [(tmp_path / name / "trained.safetensors").read_bytes() for name in ("a", "b")]
    assert trained[0] != trained[1]
    assert not (tmp_path / "b" / "class_histogram.json").exists()
