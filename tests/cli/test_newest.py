"""What is taken when nothing is named, and where results go."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from clouds_deploy.artifacts import MANIFEST, write_manifest
from clouds_deploy.bundles.packed import pack
from clouds_deploy.cli.newest import (
    free_folder,
    last_folder,
    newest_bundle,
    newest_model,
    newest_run,
    split_model,
)
from clouds_deploy.errors import CloudsError
from tests.cli.conftest import run


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(path: str, kind: str, minute: int) -> Path:
    """A finished directory, of a minute past noon."""
    folder = Path(path)
    folder.mkdir(parents=True)
    manifest = write_manifest(folder, kind) | {"made": f"2026-01-01T12:{minute:02d}:00+00:00"}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_the_newest_finished_one_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    made("runs/old", "run", 1)
    new = made("runs/new", "run", 3)
    made("runs/sam", "sam", 5)
    Path("runs/unfinished").mkdir()
    Path("runs/damaged").mkdir()
    Path("runs/damaged", MANIFEST).write_text("{")
    os.utime("runs/old")
    assert newest_run() == newest_model() == new
    assert "newest run, runs/new" in capsys.readouterr().err
    bundle = made("bundles/a", "bundle", 1)
    sam = made("bundles/sam", "sam_bundle", 2)
    assert newest_bundle() == newest_model() == bundle
    assert newest_bundle(sam=True) == sam
    pack(made("b", "bundle", 3), Path("bundles/b.clouds"))
    Path("bundles/c.clouds").write_bytes(b"no zip")
    assert newest_bundle() == Path("bundles/b.clouds")


def test_a_model_is_told_from_images() -> None:
    bundle = made("bundles/a", "bundle", 1)
    folder = made("images", "generated", 2)
    Path("photo.jpg").touch()
    Path("half").mkdir()
    Path("half/recipe.yaml").touch()
    for words in (["photo.jpg"], ["images", "photo.jpg"], ["s3://bucket/a"], ["gone.jpg"], ["gone"]):
        assert split_model(words) == (bundle, words)
    for model in (str(bundle), "half", "no/such/run", "gone.clouds"):
        assert split_model([model, str(folder)]) == (Path(model), [str(folder)])
    with pytest.raises(CloudsError, match="no image is named"):
        split_model([str(bundle)])


def test_results_never_go_where_others_are() -> None:
    assert free_folder("runs", "tiny") == Path("runs/tiny")
    with pytest.raises(CloudsError, match="no run runs/tiny to resume"):
        last_folder(Path("runs"), "tiny")
    Path("runs/tiny/checkpoints").mkdir(parents=True)
    assert free_folder("runs", "tiny") == Path("runs/tiny-2")
    assert free_folder("runs", "tiny", resume=True) == last_folder(Path("runs"), "tiny") == Path("runs/tiny")
    Path("runs/tiny-2").touch()
    assert free_folder("runs", "tiny") == Path("runs/tiny-3")
    assert free_folder("x", "sam_tiny@384") == Path("x/sam_tiny-384")
    assert free_folder("x", "..") == Path("x/result")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("export",), "no finished run under ./runs", "clouds-deploy train"),
        (("bench",), "no bundle under ./bundles", "clouds-deploy export"),
        (("serve",), "no bundle under ./bundles", "clouds-deploy export"),
        (("selftest",), "no bundle under ./bundles", "clouds-deploy export"),
        (("evaluate",), "under ./bundles or runs", "clouds-deploy train"),
        (("predict", "photo.jpg"), "under ./bundles or runs", "clouds-deploy train"),
        (("train", "--resume"), "no run runs/tiny to resume", "--out"),
    ],
)
def test_nothing_to_take(words: tuple[str, ...], message: str, hint: str, home: Path) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert hint in done.stderr
    assert not list(home.iterdir())


def test_changes_alone_are_for_the_default_recipe() -> None:
    done = run("train", "traln.lr=1")
    assert "unknown key `traln.lr` in recipe `tiny`" in done.stderr


@pytest.mark.slow
def test_train_export_bench_typed_just_so(home: Path) -> None:
    for words in (("train",), ("export", "--fp16"), ("bench",)):
        done = run(*words)
        assert done.returncode == 0, done.stderr
    assert (home / "bench" / "tiny-fp16" / "report.html").is_file()
