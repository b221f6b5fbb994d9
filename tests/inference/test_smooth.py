from __future__ import annotations

import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.config.predict import PredictOptions
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference import smooth
from clouds_deploy.inference.predict import PredictWork, run_predict
from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.inference.smooth import Smoother
from clouds_deploy.streets import Clip

pytest.importorskip("cv2")
HEIGHT, WIDTH = 64, 96


class Scripted:
    """A segmenter whose scores are made up frame by frame."""

    def __init__(self, give: Callable[[int], np.ndarray]) -> None:
        self.give, self.calls = give, 0

    def scores_at(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        self.calls += 1
        scores = self.give(self.calls - 1).astype(np.float32)
        assert scores.shape[1:] == size
        return scores

    def describe(self) -> dict[str, object]:
        return {"kind": "scripted"}


def pattern(shift: int) -> np.ndarray:
    """A blurred random picture, moved to the right by some pixels."""
    grid = np.random.default_rng(0).integers(0, 256, (12, 40, 3), np.uint8)
    wide = Image.fromarray(grid).resize((200, HEIGHT), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(wide)[:, 60 - shift : 60 - shift + WIDTH])


def halves(first: float) -> np.ndarray:
    """Scores of two classes, the same everywhere."""
    return np.stack([np.full((HEIGHT, WIDTH), first), np.full((HEIGHT, WIDTH), 1.0 - first)])


def test_what_stands_still_is_averaged_as_the_formula_says() -> None:
    scripted = Scripted(lambda frame: halves(1.0 if frame == 0 else 0.4))
    smoother = Smoother(scripted, 0.5)
    frame = pattern(0)
    still = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    labels = [smoother(frame, still) for _ in range(6)]
    # p = 1, then (p + 0.4) / 2: 0.7, 0.55, 0.475: the second class wins in the fourth frame
    assert [int(one[20, 20]) for one in labels] == [0, 0, 0, 1, 1, 1]
    assert all((one == one[20, 20]).all() for one in labels)
    assert smoother.weight == pytest.approx(0.5)


def test_the_past_moves_with_the_picture() -> None:
    edge = WIDTH // 2

    def give(frame: int) -> np.ndarray:
        scores = halves(0.45)
        if frame == 0:
            scores[0, :, :edge], scores[1, :, :edge] = 1.0, 0.0
        return scores

    smoother = Smoother(Scripted(give), 0.7)
    smoother(pattern(0))
    labels = smoother(pattern(6))
    inner = labels[8:-8]
    assert (inner[:, 12 : edge + 2] == 0).mean() > 0.95
    assert (inner[:, edge + 4 : edge + 9] == 0).mean() < 0.6  # the class ends at edge + 6
    assert (inner[:, edge + 9 :] == 1).mean() > 0.98


def test_a_given_flow_is_taken_and_where_it_is_missing_the_past_has_no_weight() -> None:
    smoother = Smoother(Scripted(lambda frame: halves(1.0 if frame == 0 else 0.4)), 0.7)
    smoother(pattern(0))
    flow = np.zeros((HEIGHT, WIDTH, 2), np.float32)
    flow[:, : WIDTH // 2] = np.nan
    labels = smoother(pattern(0), flow)
    assert (labels[:, : WIDTH // 2] == 1).all()
    assert (labels[:, WIDTH // 2 :] == 0).all()


def test_a_cut_ends_the_memory() -> None:
    smoother = Smoother(Scripted(lambda frame: halves(1.0 if frame == 0 else 0.45)), 0.9)
    smoother(pattern(0))
    labels = smoother(255 - pattern(0)[::-1])
    assert (labels == 1).mean() > 0.95


def test_another_size_begins_anew() -> None:
    sizes = [(HEIGHT, WIDTH), (32, 48)]
    scripted = Scripted(lambda frame: np.ones((2, *sizes[frame])) * [[[0.4 + frame]], [[0.6]]])
    smoother = Smoother(scripted, 0.9)
    smoother(pattern(0))
    assert (smoother(pattern(0)[:32, :48]) == 0).all()


def test_strength_zero_gives_the_plain_labels(small_run: Path) -> None:
    run = open_model(small_run)
    smoother = Smoother(run, 0.0)
    for frame in Clip("photo", 0, 0, 64, 128).frames(2):
        assert np.array_equal(smoother(frame.image), run.predict(frame.image))


def test_large_frames_are_smoothed_at_a_smaller_size(
    small_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, frame = open_model(small_run), Clip("photo", 0, 0, 64, 128).frame(0).image
    plain = run.predict(frame)
    monkeypatch.setattr(smooth, "_PIXELS", 32 * 64)
    labels = Smoother(run, 0.0)(frame)
    assert labels.shape == plain.shape
    assert (labels == plain).mean() > 0.9


def test_a_bundle_needs_scores(small_bundle: Path) -> None:
    with pytest.raises(CloudsError, match="labels only"):
        Smoother(open_model(small_bundle))(pattern(0))


def test_strengths_that_never_forget_are_refused() -> None:
    with pytest.raises(CloudsError, match="strength"):
        Smoother(Scripted(lambda frame: halves(0.5)), 1.0)


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(CloudsError) as told:
        Smoother(Scripted(lambda frame: halves(0.5)))
    assert "clouds-deploy[video]" in told.value.hint


def test_predict_smooths_each_video_alone(small_run: Path, tmp_path: Path) -> None:
    pytest.importorskip("av")
    from clouds_deploy.data.video import read_frames, write_video

    frames = [frame.image for frame in Clip("photo", 0, 1, 64, 128).frames(3)]
    for name, order in (("a", frames), ("b", frames[::-1])):
        with write_video(tmp_path / f"{name}.mp4", Fraction(17)) as writer:
            for frame in order:
                writer.write(frame)
    work = PredictWork(small_run, PredictOptions(smooth=True, overlays=False))
    run_predict(work, [tmp_path / "a.mp4", tmp_path / "b.mp4"], tmp_path / "out")
    for name in "ab":
        smoother = Smoother(open_model(small_run))
        expected = [smoother(frame) for frame in read_frames(tmp_path / f"{name}.mp4")]
        found = [np.asarray(Image.open(p)) for p in sorted((tmp_path / "out" / "labels" / name).iterdir())]
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", [(40, 90), (128, 60)])
def test_a_bundles_scores_lie_where_its_labels_do(tmp_path: Path, shape: tuple[int, int]) -> None:
    from tests.cpp.toy import write_toy

    bundle = open_model(write_toy(tmp_path / "bundle", scores=True))
    image = np.full((*shape, 3), (60, 140, 30), np.uint8)
    image[: shape[0] // 2, shape[1] // 2 :] = (220, 20, 60)
    scores = bundle.scores_at(image, shape)
    assert scores.shape[1:] == shape
    labels = bundle.predict(image)
    assert len(np.unique(labels)) > 1
    rows, columns = (np.linspace(0.02, 0.98, 50) * size for size in shape)
    rows, columns = ((x[np.abs(x / x.max() - 0.5) > 0.3]).astype(int) for x in (rows, columns))
    inner = np.ix_(rows, columns)  # away from borders, which scores of a quarter of the size blur
    assert np.array_equal(scores.argmax(0)[inner], labels[inner])
