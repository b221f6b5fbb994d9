"""Every file operation may fail: no traceback, nothing lost, nothing half-written, and the next run works.

A stage is run once to count its operations on files below a folder, then again and again with one of them
failing. The default suite runs the stages on toy models and at some of the operations; `slow` runs real ones.
"""

from __future__ import annotations

import builtins
import errno
import io
import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.artifacts import CACHE_VARIABLE, write_json, write_manifest
from clouds_deploy.bundles.packed import pack, packing, unpacked
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.data.images import write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import PredictWork, run_predict
from clouds_deploy.refinement.refine import RefineWork, run_refine
from clouds_deploy.refinement.refiner import Refiner
from tests.refinement.fakes import ColourSam, folder
from tests.training.small import small_recipe

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EBUSY, errno.EEXIST)
OPERATIONS = ("open", "mkdir", "replace", "rename", "link", "unlink", "remove", "rmdir", "fsync", "ftruncate")
Stage = Callable[[Path], object]


class Faults:
    """Fails one of the operations that change files below a folder.

    Args:
        root: The folder.
        at: Number of the operation that fails; 0 fails none.
        error: How.
    """

    def __init__(self, root: Path, at: int = 0, error: int = errno.ENOSPC) -> None:
        self.root, self.at, self.error = str(root), at, error
        self.count = 0
        self.failed = ""
        self._lock = threading.Lock()

    def pass_or_fail(self, name: str, path: Any, inside: bool = False) -> None:
        if not inside and not (
            isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.root)
        ):
            return
        with self._lock:
            self.count += 1
            fail = self.count == self.at
        if fail:
            self.failed = f"{name} {path}"
            raise OSError(self.error, os.strerror(self.error), None if inside else os.fspath(path))

    @contextmanager
    def armed(self) -> Iterator[Faults]:
        with pytest.MonkeyPatch.context() as patch:
            for name in OPERATIONS:
                patch.setattr(os, name, self._operation(name, getattr(os, name)))
            opened = self._open(io.open)
            patch.setattr(io, "open", opened)
            patch.setattr(builtins, "open", opened)
            yield self

    def _operation(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def tried(path: Any, *more: Any, **others: Any) -> Any:
            reads = name == "open" and not more[0] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)
            if not reads:
                self.pass_or_fail(name, path, name in ("fsync", "ftruncate") or "dir_fd" in others)
            return real(path, *more, **others)

        return tried

    def _open(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def tried(file: Any, mode: str = "r", *more: Any, **others: Any) -> Any:
            if set(mode) & set("wax+"):
                try:
                    self.pass_or_fail("open", file)
                except OSError as error:
                    if error.errno != errno.ENOSPC or "w" not in mode:
                        raise
                    real(file, "wb").close()
                    return real("/dev/full", mode, *more, **others)  # it opens, and cannot be written
            return real(file, mode, *more, **others)

        return tried


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def listed(out: Path) -> list[str]:
    """Names of what is in a folder, but for TensorBoard's files, which are named by time."""
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if "tfevents" not in path.name)


def half_written(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*") if ".tmp-" in path.name or path.name.endswith(".claim")]


def check(stage: Stage, tmp_path: Path, points: int) -> None:
    """Fails a stage at so many of its operations, evenly spaced, with each error in turn."""
    beside = {".out.old": "mine", "out.failed": "mine", "out.txt": "mine"}
    for name, text in beside.items():
        (tmp_path / name).write_text(text)
    before = contents(tmp_path)
    places = tmp_path / "made"
    places.mkdir()
    with Faults(places).armed() as counted:
        stage(places / "counted")
    assert counted.count >= 5
    made = listed(places / "counted")
    errors = itertools.cycle(ERRORS)
    tried = sorted({round(n) for n in np.linspace(1, counted.count, min(points, counted.count))})
    for at in tried:
        out = places / f"{at}"
        with Faults(places, at, next(errors)).armed() as faults:
            told = None
            try:
                stage(out)
            except CloudsError as error:
                told = error.message
        where = f"{faults.failed} (operation {at}): {os.strerror(faults.error)}"
        assert told is None or os.strerror(faults.error) in told or "no space left" in told, where
        assert not half_written(tmp_path), where
        kept = {path: data for path, data in contents(tmp_path).items() if not path.startswith(str(places))}
        assert kept == before, where
        stage(out)
        assert listed(out) == made, where
        assert not half_written(tmp_path), where


def bundle(place: Path) -> None:
    (place / "source").mkdir()
    for name in ("segmenter.onnx", "source/recipe.yaml"):
        (place / name).write_bytes(bytes(100))
    write_json(place / "bundle.json", {})
    write_manifest(place, "bundle")


def unless_made(stage: Stage) -> Stage:
    """A stage that refuses what is there already: the failure of a cleanup comes after the result."""

    def run(out: Path) -> None:
        if not out.exists():
            stage(out)

    return run


@pytest.mark.parametrize("packed", [False, True])
def test_export(packed: bool, tmp_path: Path) -> None:
    def stage(out: Path) -> None:
        with packing(out / "a.clouds" if packed else out / "a") as place:
            bundle(place)

    def again(out: Path) -> None:
        if not (out / ("a.clouds" if packed else "a")).exists():
            stage(out)

    check(again, tmp_path, 14)


def test_cache_of_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundle").mkdir()
    bundle(tmp_path / "bundle")
    pack(tmp_path / "bundle", tmp_path / "a.clouds")

    def stage(out: Path) -> None:
        monkeypatch.setenv(CACHE_VARIABLE, str(out))
        assert (unpacked(tmp_path / "a.clouds") / "source" / "recipe.yaml").is_file()

    check(stage, tmp_path, 12)


class _Flat:
    """A segmenter that finds road everywhere."""

    def predict(self, image: Any) -> Any:
        return np.zeros(image.shape[:2], np.uint8)

    def describe(self) -> dict[str, Any]:
        return {"kind": "bundle", "name": "flat"}

    def close(self) -> None:
        pass


def test_predict(tmp_path: Path) -> None:
    folder(tmp_path, 2)

    def stage(out: Path) -> None:
        work = PredictWork(tmp_path, predictor=_Flat())  # type: ignore[arg-type]
        assert run_predict(work, [tmp_path / "images"], out)["images"] == 2

    check(stage, tmp_path, 14)


def test_a_name_that_is_too_long_fails_alone(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for name in ("a.png", "n" * 251 + ".jpg", "n" * 251 + ".png"):  # the last two share a name without suffix
        write_png(tmp_path / "x.png", np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "x.png").rename(images / name)
    work = PredictWork(tmp_path, predictor=_Flat())  # type: ignore[arg-type]
    result = run_predict(work, [images], tmp_path / "out")
    assert result["images"] == 2
    assert [Path(one["path"]).name[-4:] for one in result["failed"]] == [".png"]
    assert "File name too long" in result["failed"][0]["fault"]
    assert len(list((tmp_path / "out" / "labels").iterdir())) == 2


def test_refine(tmp_path: Path) -> None:
    folder(tmp_path, 2)

    def stage(out: Path) -> None:
        work = RefineWork(lambda: Refiner(ColourSam(), RefineConfig()), tmp_path / "labels", overlays=1)
        assert run_refine(work, tmp_path / "images", out)["images"] == 2

    check(stage, tmp_path, 12)


def test_train(tmp_path: Path) -> None:
    import torch

    from clouds_deploy.training.run import RunFolder

    recipe = small_recipe()

    def stage(out: Path) -> None:
        run, step = RunFolder(out, recipe, "run", keep=1), 0
        tensors = {"trained.safetensors": {"x": torch.zeros(3)}}
        if not run.path.exists():
            run.start(tensors, {}, {"frozen.safetensors": {"y": torch.zeros(2)}})
        elif run.finished() is None:
            step = run.resume().step
        if run.finished() is None:
            if step < 7:
                run.save(7, tensors, {})
            run.finish("trained.safetensors", tensors["trained.safetensors"], steps=7)

    check(stage, tmp_path, 14)


@pytest.mark.slow
@pytest.mark.usefixtures("exported_already")
def test_export_of_a_run(small_run: Path, tmp_path: Path) -> None:
    from clouds_deploy.export.export import export

    check(unless_made(lambda out: export(small_run, out=out)), tmp_path, 60)


@pytest.mark.slow
def test_predict_of_a_bundle(small_bundle: Path, tmp_path: Path) -> None:
    from clouds_deploy import predict

    folder(tmp_path, 3)
    check(lambda out: predict(small_bundle, [tmp_path / "images"], out=out), tmp_path, 60)


@pytest.mark.slow
def test_train_of_a_step(tmp_path: Path) -> None:
    from clouds_deploy.training.segmenter.loop import train

    recipe = small_recipe("train.steps=1", "train.eval_every=0")
    check(lambda out: train(recipe, out, resume=out.exists()), tmp_path, 60)


@pytest.mark.slow
def test_refine_of_many(tmp_path: Path) -> None:
    folder(tmp_path, 6)

    def stage(out: Path) -> None:
        work = RefineWork(lambda: Refiner(ColourSam(), RefineConfig()), tmp_path / "labels", overlays=3)
        run_refine(work, tmp_path / "images", out)

    check(stage, tmp_path, 60)


@pytest.mark.slow
def test_import_of_a_checkpoint(tmp_path: Path) -> None:
    from clouds_deploy import import_checkpoint
    from tests.models.test_official import CONVNEXT_RECIPE, convnext_shapes, fill, save

    path = save({"model": fill(convnext_shapes())}, tmp_path / "x.pth")
    make = unless_made(lambda out: import_checkpoint(path, out=out, recipe=CONVNEXT_RECIPE))
    check(make, tmp_path, 60)
