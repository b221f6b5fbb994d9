"""Every command of the guides on serving and Triton that can be run here is run."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.serve_load import Server
from clouds_deploy.streets import render
from tests.cli.conftest import run
from tests.documented import blocks, commands


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def server(small_bundle: Path) -> Iterator[Server]:
    running = Server(small_bundle, "--name", "tiny")
    yield running
    running.signal()
    running.wait()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here: apt-get install curl")
def test_serving(server: Server, tmp_path: Path) -> None:
    scene = render("photo", 0, 1, 120, 200)
    Image.fromarray(scene.image).save(tmp_path / "street.jpg")
    given = commands("guides/serve.md")
    assert given[0] == "clouds-deploy serve bundles/a --port 8000"  # `Server` types it, on a free port
    said = {}
    for command in given[1:]:
        if command.startswith("python engines/triton/client.py"):
            continue  # tests/serving/test_triton.py runs it, where Triton's client is installed
        done = shell(command.replace("localhost:8000", server.address.removeprefix("http://")), tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        said[command.split("localhost:8000")[1].strip('"')] = done.stdout
    for name in ("labels.png", "overlay.jpg", "refined.png", "mask.png"):
        assert np.asarray(Image.open(tmp_path / name)).shape[:2] == (120, 200)
    assert '"share"' in said["/v1/segment"]
    assert '"live":true' in said["/health"]
    assert "clouds_requests_total" in said["/metrics"]
    assert '"datatype":"UINT8"' in said["/v2/models/tiny"]


def test_triton(small_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "a").symlink_to(small_bundle)
    monkeypatch.chdir(tmp_path)
    for command in commands("guides/triton.md"):
        tool, *words = shlex.split(command)
        assert tool == "clouds-deploy"
        done = run(*words)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / "repository" / "models" / "clouds" / "1" / "model.onnx").is_file()
    assert (tmp_path / "repository_tensorrt" / "build_plans.sh").is_file()


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl here: apt-get install curl")
def test_the_tutorial(server: Server, small_bundle: Path, tmp_path: Path) -> None:
    Image.fromarray(render("photo", 0, 1, 120, 200).image).save(tmp_path / "street.jpg")
    (tmp_path / "bundles").mkdir()
    (tmp_path / "bundles" / "first").symlink_to(small_bundle)
    start, *asked, export = commands("tutorials/serving.md")
    assert start == "clouds-deploy serve bundles/first --port 8000 --name first"  # `server` types it
    said = ""
    for command in asked:
        done = shell(command.replace("localhost:8000", server.address.removeprefix("http://")), tmp_path)
        assert done.returncode == 0, (command, done.stderr)
        said = done.stdout
    assert "clouds_engine_seconds_bucket" in said
    for name in ("labels.png", "overlay.jpg", "refined.png"):
        assert np.asarray(Image.open(tmp_path / name)).shape[:2] == (120, 200)
    (program,) = blocks("tutorials/serving.md", "python")
    program = program.replace("http://localhost:8000", server.address).replace("models/first", "models/tiny")
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("labels (1, 64, 128) classes [")
    done = run(*shlex.split(export)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "repository" / "models" / "clouds" / "1" / "model.onnx").is_file()
