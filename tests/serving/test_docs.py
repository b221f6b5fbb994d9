"""Every command of the guides on serving and Triton that can be run here is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.serve_load import Server
from clouds_deploy.streets import render
from tests.cli.conftest import run

ROOT = Path(__file__).parents[2]


def commands(page: str) -> list[str]:
    text = (ROOT / "docs" / "guides" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


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
    given = commands("serve.md")
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
    for command in commands("triton.md"):
        tool, *words = shlex.split(command)
        assert tool == "clouds-deploy"
        done = run(*words)
        assert done.returncode == 0, (command, done.stderr)
    assert (tmp_path / "repository" / "models" / "clouds" / "1" / "model.onnx").is_file()
    assert (tmp_path / "repository_tensorrt" / "build_plans.sh").is_file()
