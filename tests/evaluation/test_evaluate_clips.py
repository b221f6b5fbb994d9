from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.consistency import flow_consistency, video_consistency
from clouds_deploy.evaluation.job import evaluate
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.segmenter import open_model
from clouds_deploy.streets import Clip


def test_synthetic_clips_give_what_their_parts_give(small_run: Path) -> None:
    result = evaluate(small_run, clips=True, domain="photo", images=1, frames=9)
    run = open_model(small_run)
    height, width = run.recipe.data.height, run.recipe.data.width
    frames = list(Clip("photo", 1, 0, height, width).frames(9))
    found, truths = [run.predict(frame.image) for frame in frames], [frame.labels for frame in frames]
    matrix = ConfusionMatrix()
    for labels, truth in zip(found, truths, strict=True):
        matrix.update(labels, truth)
    same = [
        flow_consistency(a, b, f.flow, f.occluded) for a, b, f in zip(found, found[1:], frames, strict=False)
    ]
    assert result["miou"] == pytest.approx(100 * matrix.miou())
    assert result["mvc8"] == pytest.approx(100 * np.mean(video_consistency(truths, found, 8)))
    assert result["mvc16"] is None
    assert result["flow_consistency"] == pytest.approx(
        100 * sum(s for s, _ in same) / sum(n for _, n in same)
    )
    assert (result["images"], result["clips"], result["smooth"]) == (9, 1, False)


def test_a_folder_of_clips_with_a_gap_in_its_labels(small_run: Path, tmp_path: Path) -> None:
    frames = list(Clip("photo", 0, 0, 64, 128).frames(12))
    for number, frame in enumerate(frames):
        for kind, pixels in (("images", frame.image), ("labels", frame.labels)):
            if kind == "images" or number != 10:
                path = tmp_path / kind / "drive" / f"{number:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    result = evaluate(small_run, clips=True, data=str(tmp_path), frames=50)
    run = open_model(small_run)
    found, truths = [run.predict(frame.image) for frame in frames], [frame.labels for frame in frames]
    assert result["mvc8"] == pytest.approx(100 * np.mean(video_consistency(truths[:10], found[:10], 8)))
    assert result["flow_consistency"] is None
    assert result["images"] == 11
    assert result == evaluate(small_run, clips=True, data=f"folder:{tmp_path}", frames=50)


def test_smoothing_steadies(small_run: Path) -> None:
    pytest.importorskip("cv2")
    plain, smooth = (
        evaluate(small_run, clips=True, domain="photo", images=1, frames=8, smooth=flag)
        for flag in (False, True)
    )
    assert smooth["flow_consistency"] > plain["flow_consistency"]


def test_what_does_not_go_with_clips_is_refused(small_run: Path, tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="in one go"):
        evaluate(small_run, clips=True, domain="photo", out=str(tmp_path / "out"))
    with pytest.raises(CloudsError, match="19 classes"):
        evaluate(small_run, clips=True, domain="photo", classes="cityscapes34")
    with pytest.raises(CloudsError, match="no order of time"):
        evaluate(small_run, domain="photo", images=1, smooth=True)
    with pytest.raises(CloudsError, match="one by one"):
        evaluate(small_run, clips=True, data=(str(tmp_path), str(tmp_path)))
