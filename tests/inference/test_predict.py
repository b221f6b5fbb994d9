from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.predict import PredictOptions
from clouds_deploy.config.recipe import EvaluateConfig
from clouds_deploy.data import images
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.evaluate import evaluate
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.predict import PredictWork, run_predict
from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.refinement.pairs import find_pairs, load_pair
from tests.conftest import write_run


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def predict_with(predictor: Any, paths: list[Path], out: Path, **options: Any) -> dict[str, Any]:
    return run_predict(PredictWork(Path("none"), PredictOptions(**options), predictor), paths, out)


class Constant:
    """A predictor that needs no model."""

    def predict(self, image: np.ndarray) -> np.ndarray:
        return np.full(image.shape[:2], 13, np.uint8)

    def describe(self) -> dict[str, object]:
        return {"kind": "constant"}


class Truth:
    """Images with labels, by number."""

    def __init__(self, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.pairs[index]


def test_bundle_and_run_agree_at_the_graphs_size(
    small_bundle: Path, small_run: Path, picture: np.ndarray
) -> None:
    bundle, run = open_model(small_bundle), open_model(small_run)
    a, b = bundle.predict(picture), run.predict(picture)
    assert a.shape == b.shape == (64, 128)
    assert (a == b).mean() > 0.999
    assert bundle.describe()["kind"] == "bundle"
    assert run.describe()["backbone_weights"] == bundle.describe()["backbone_weights"]


@pytest.mark.parametrize("shape", [(50, 75), (130, 40)])
def test_labels_have_the_images_size(small_bundle: Path, small_run: Path, shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    assert open_model(small_bundle).predict(image).shape == shape
    assert open_model(small_run).predict(image).shape == shape


@pytest.fixture(scope="module")
def resizing_run(tmp_path_factory: pytest.TempPathFactory, small_recipe: Any, small_segmenter: Any) -> Path:
    """A run that sees images at a short side of 96."""
    recipe = small_recipe.model_copy(update={"evaluate": EvaluateConfig(short_side=96)})
    return write_run(tmp_path_factory.mktemp("resizing") / "run", recipe, small_segmenter)


@pytest.mark.parametrize("size", [(720, 1283), (97, 61), (96, 96)])
def test_evaluate_and_predict_give_the_same_labels(resizing_run: Path, size: tuple[int, int]) -> None:
    image = np.random.default_rng(1).integers(0, 256, (*size, 3)).astype(np.uint8)
    model = open_model(resizing_run)
    labels = model.predict(image)
    source, matrix = Truth([(image, labels), (image, labels)]), ConfusionMatrix()
    matrix.update(labels, labels)
    found = evaluate(model.batch, source)
    assert np.array_equal(found.matrix.counts, 2 * matrix.counts)
    assert min(model.batch(image[None]).shape[-2:]) == 96


def test_a_run_sees_a_bounded_number_of_pixels(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    image = np.random.default_rng(2).integers(0, 256, (300, 101, 3)).astype(np.uint8)
    save(tmp_path / "in" / "a.png", image)
    save(tmp_path / "in" / "b.png", image[:50])
    monkeypatch.setattr(images, "NETWORK_PIXELS", 64 * 128)
    run = open_model(small_run)
    assert run.batch(image[None]).shape == (1, 19, 155, 52)
    told = " ".join(capsys.readouterr().err.split())
    assert "images of 101x300 are more than the network sees at once" in told
    assert "it sees them at 52x155" in told
    result = predict_with(run, [tmp_path / "in"], tmp_path / "out")
    assert (result["images"], result["seen_smaller"]) == (2, 1)
    with Image.open(tmp_path / "out" / "labels" / "a.png") as labels:
        assert labels.size == (101, 300)
    assert images.network_size(100, 50, None) == (100, 50)


def test_how_sure_the_labels_are(
    small_bundle: Path, small_run: Path, picture: np.ndarray, tmp_path: Path
) -> None:
    run = open_model(small_run)
    labels, trust = run.predict_with_trust(picture)
    scores = run.batch(picture[None])[0].whole().numpy()
    assert np.array_equal(labels, scores.argmax(0))
    assert np.abs(trust / 255 - scores.max(0) / scores.sum(0)).max() <= 0.5 / 255 + 1e-6
    with pytest.raises(CloudsError, match="gives labels only"):
        open_model(small_bundle).predict_with_trust(picture)
    save(tmp_path / "in" / "a.png", picture)
    predict_with(run, [tmp_path / "in"], tmp_path / "out", overlays=False, confidences=True)
    (pair,) = find_pairs(tmp_path / "in", tmp_path / "out")
    loaded = load_pair(pair)
    assert np.array_equal(loaded.labels, labels)
    assert loaded.confidence is not None
    assert np.array_equal(np.rint(255 * loaded.confidence).astype(np.uint8), trust)


def test_neither_run_nor_bundle(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="does not exist"):
        open_model(tmp_path / "nothing")


def test_folder_with_one_bad_file(tmp_path: Path, picture: np.ndarray) -> None:
    inputs = tmp_path / "in"
    save(inputs / "a.png", picture)
    save(inputs / "deep" / "a.png", picture)
    save(inputs / "a.jpg", picture)
    (inputs / "bad.png").write_bytes(b"\x89PNG broken")
    result = predict_with(Constant(), [inputs], tmp_path / "out")
    assert (result["images"], result["frames"]) == (3, 0)
    assert [Path(f["path"]).name for f in result["failed"]] == ["bad.png"]
    assert result["failed"][0]["fix"]
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    names = ["a.png", "a_png.png", "deep/a.png"]
    assert written == [*(f"labels/{n}" for n in names), *(f"overlays/{n}" for n in names)]
    labels = np.asarray(Image.open(tmp_path / "out" / "labels" / "a.png"))
    assert labels.shape == (64, 128)
    assert set(labels.ravel()) == {13}
    manifest = read_manifest(tmp_path / "out", "prediction")
    assert manifest["images"] == 3
    assert len(manifest["failed"]) == 1


def test_same_stems_from_different_folders(tmp_path: Path, picture: np.ndarray) -> None:
    paths = [save(tmp_path / folder / "a.png", picture) for folder in "xyz"]
    predict_with(Constant(), paths, tmp_path / "out", overlays=False)
    assert sorted(p.name for p in (tmp_path / "out" / "labels").iterdir()) == [
        "a.png",
        "a_png-2.png",
        "a_png.png",
    ]
    assert not (tmp_path / "out" / "overlays").exists()


def test_nothing_labelled_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no")
    with pytest.raises(CloudsError, match="none of 1 files") as caught:
        predict_with(Constant(), [tmp_path / "bad.png"], tmp_path / "out")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten(tmp_path: Path, picture: np.ndarray) -> None:
    image = save(tmp_path / "a.png", picture)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(CloudsError, match="exists already"):
        predict_with(Constant(), [image], tmp_path / "out")


def test_video(tmp_path: Path, picture: np.ndarray) -> None:
    pytest.importorskip("av")
    from clouds_deploy.data.video import frame_count, write_video

    movie = tmp_path / "drive.mp4"
    with write_video(movie, Fraction(10)) as writer:
        for _ in range(3):
            writer.write(picture)
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    result = predict_with(Constant(), [movie, tmp_path / "broken.mp4"], tmp_path / "out")
    assert result["frames"] == 3
    assert len(result["failed"]) == 1
    assert len(list((tmp_path / "out" / "labels" / "drive").iterdir())) == 3
    assert frame_count(tmp_path / "out" / "overlays" / "drive.mp4") == 3
    assert not (tmp_path / "out" / "labels" / "broken").exists()


def test_labels_of_another_vocabulary_are_made_again(tmp_path: Path) -> None:
    """The same names may have other vectors: what was labelled with those is not taken for done."""
    files = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for number, file in enumerate(files):
        Vocabulary(("road", "sky"), np.full((2, 1, 4), number, np.float32), np.zeros(2, np.float32)).save(
            file
        )
    model: Any = SimpleNamespace(describe=lambda: {"kind": "bundle"})
    settings = [
        PredictWork(tmp_path, PredictOptions(vocabulary=file), model).settings() for file in (*files, None)
    ]
    assert settings[0] != settings[1]
    assert "vocabulary" not in settings[2]
