"""`predict` that is killed and started again."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.data.images import read_image, read_label_ids
from clouds_deploy.inference.predict import PredictWork
from tests.deadly import done, finish, kill_after


def test_500_images_killed_twice_are_labelled_once_each(small_bundle: Path, tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for i in range(500):
        pixels = np.random.default_rng(i).integers(0, 256, (24, 32, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{i:03d}.png")
    (images / "z_broken.png").write_bytes(b"no image")
    command = [sys.executable, "-m", "clouds_deploy", "predict", str(small_bundle), str(images), "--out"]
    command += [str(out), "--no-overlays", "--json"]
    stamps: dict[Path, int] = {}
    for more in (120, 200):
        count = kill_after(command, out, more)
        assert more <= count < 500
        names = done(out)
        assert len(names) == len(set(names))
        files = [out / "labels" / f"{name}.png" for name in names]
        stamps = {file: file.stat().st_mtime_ns for file in files} | stamps
        assert not (out / "manifest.json").exists()
    result = finish(command)
    assert (result["images"], [Path(f["path"]).name for f in result["failed"]]) == (500, ["z_broken.png"])
    assert sorted(done(out)) == [f"{i:03d}" for i in range(500)]
    assert {file: file.stat().st_mtime_ns for file in stamps} == stamps
    assert len(list((out / "labels").iterdir())) == 500
    assert not list(out.rglob(".*"))
    assert read_manifest(out, "prediction")["images"] == 500
    predictor = PredictWork(small_bundle).predictor
    for name in ("000", "200", "499"):
        wanted = predictor.predict(read_image(images / f"{name}.png"))
        assert np.array_equal(read_label_ids(out / "labels" / f"{name}.png"), wanted)
    stamps = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert finish(command) == result
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == stamps
