"""The verbs that open and run bundles, in processes that cannot import PyTorch or what comes with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.serve_load import Server
from clouds_deploy.data.images import read_label_ids, write_png
from clouds_deploy.inference.predict import predict
from clouds_deploy.refinement.refine import refine
from clouds_deploy.streets import render
from tests.serving.live import picture_of, png

ROOT = Path(__file__).parent.parent
PATH = os.pathsep.join([str(Path(__file__).parent / "without_torch"), str(ROOT)])


@pytest.fixture(autouse=True)
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """For processes that are started, not for this one."""
    monkeypatch.setenv("PYTHONPATH", PATH)


def typed(*words: str | Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "clouds_deploy", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def answered(*words: str | Path) -> dict[str, Any]:
    return dict(json.loads(typed(*words, "--json").stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def street(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `images/a.png` and `labels/a.png`."""
    folder, scene = tmp_path_factory.mktemp("street"), render("photo", 0, 0, 90, 160)
    write_png(folder / "images" / "a.png", scene.image)
    write_png(folder / "labels" / "a.png", scene.labels)
    return folder


def test_it_is_really_absent() -> None:
    code = (
        "import importlib.metadata as m, importlib.util as u; print(u.find_spec('torch')); m.version('torch')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "None\n"
    assert "PackageNotFoundError" in done.stderr


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_predict(small_bundle: Path, street: Path, tmp_path: Path, backend: str) -> None:
    photo = street / "images" / "a.png"
    found = answered("predict", small_bundle, photo, "--out", tmp_path / "out", "--backend", backend)
    assert (found["images"], found["failed"]) == (1, [])
    predict(small_bundle, [photo], out=tmp_path / "here", backend=backend)
    same, made = (read_label_ids(tmp_path / f / "labels" / "a.png") for f in ("here", "out"))
    assert np.array_equal(same, made)


def test_selftest_and_evaluate(small_bundle: Path, sam_bundle: Path, street: Path) -> None:
    assert answered("selftest", small_bundle)["passed"]
    assert answered("selftest", sam_bundle, "--backend", "onnxruntime")["passed"]
    assert answered("evaluate", small_bundle, "--data", f"folder@all:{street}")["images"] == 1


def test_refine(sam_bundle: Path, street: Path, tmp_path: Path) -> None:
    given = ("--images", street / "images", "--labels", street / "labels")
    answered("refine", "--sam", sam_bundle, *given, "--out", tmp_path / "out")
    how = {"images": street / "images", "labels": street / "labels"}
    refine(str(sam_bundle), out=tmp_path / "here", **how)
    same, made = (read_label_ids(tmp_path / f / "labels" / "a.png") for f in ("here", "out"))
    assert np.array_equal(same, made)


def test_serve(small_bundle: Path, sam_bundle: Path, street: Path) -> None:
    server = Server(small_bundle, "--sam", str(sam_bundle))
    image = np.asarray(Image.open(street / "images" / "a.png"))
    labels = np.asarray(Image.open(street / "labels" / "a.png"))
    files = {"image": ("a.png", png(image)), "labels": ("l.png", png(labels))}
    with httpx.Client(base_url=server.address, timeout=60) as http:
        assert picture_of(http.post("/v1/refine", files=files)).shape == labels.shape
    server.signal()
    code, tally, said = server.wait()
    assert (code, tally["answered"]) == (0, 1), said


def test_bench(small_bundle: Path, tmp_path: Path) -> None:
    found = answered("bench", small_bundle, "--suite", "smoke", "--seconds", "0.1", "--out", tmp_path / "out")
    assert [entry["backend"] for entry in found["bundles"][0]["results"]] == ["onnxruntime", "openvino"]
    assert (tmp_path / "out" / "report.html").is_file()


def test_help_of_every_verb() -> None:
    code = """
import contextlib, io, typer.main
from clouds_deploy.cli import app
for words in ([], *([name] for name in typer.main.get_command(app).commands)):
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()) as out:
        app([*words, "--help"])
    assert "Usage: " in out.getvalue(), words
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_needs_no_model(street: Path) -> None:
    checks = {check["name"]: check for check in answered("doctor")["checks"]}
    assert checks["onnxruntime"]["verdict"] == "ok"
    assert checks["torch"] == {
        "name": "torch", "verdict": "absent", "detail": "not installed",
        "fix": 'pip install "clouds-deploy[train]"',
    }  # fmt: skip
    assert "tiny " in typed("recipes", "ls").stdout
    assert answered("data", "check", street, "--layout", "folder")["labels"] == 1


def test_what_needs_it_says_so(small_run: Path, small_bundle: Path, street: Path, tmp_path: Path) -> None:
    photo, out = street / "images" / "a.png", ("--out", tmp_path / "out")
    given = ("--images", street / "images", "--labels", street / "labels")
    for words in (
        ("predict", small_run, photo, *out),
        ("predict", small_bundle, photo, "--backend", "torch", *out),
        ("refine", "--sam", "sam_tiny", *given, *out),
    ):
        told = typed(*words, code=2).stderr
        assert "needs PyTorch" in told
        assert 'pip install "clouds-deploy[train]"' in told
    told = typed("train", *out, code=2).stderr
    assert "which is not installed" in told
    assert 'pip install "clouds-deploy[train]"' in told
