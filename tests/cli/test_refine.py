from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.data.images import read_label_ids
from tests.cli.conftest import last_json, run
from tests.refinement.fakes import folder, spoil

TINY = ("--sam", "sam_tiny@128", "--weights", "random")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder(tmp_path, 3)
    return tmp_path


def given(tree: Path, out: str = "out") -> tuple[str | Path, ...]:
    return ("--images", tree / "images", "--labels", tree / "labels", "--out", tree / out)


@pytest.mark.parametrize("mode", ["robust", "official"])
def test_refine(tree: Path, mode: str) -> None:
    words = ("refine", *TINY, *given(tree), "--mode", mode, "--seed", "3", "min_area=4000", "--batch", "2")
    result = last_json(run(*words, "--json"))
    assert (result["images"], result["refined"], result["failed"]) == (3, 3, [])
    manifest = read_manifest(tree / "out", "refinement")
    assert manifest["refine"]["mode"] == mode
    assert manifest["refine"]["min_area"] == 4000
    assert (manifest["sam"]["weights"], manifest["sam"]["image_size"]) == ("random", 128)
    assert manifest["seed"] == 3
    assert read_label_ids(tree / "out" / "labels" / "002.png").shape == (64, 64)
    done = run(*words)
    assert done.returncode == 0, done.stderr
    assert "nothing was left to do" in done.stdout
    assert "road" in done.stdout
    again = last_json(run("refine", *TINY, *given(tree, "b"), "--mode", mode, "--seed", "3", "--json"))
    if mode == "robust":  # random weights come of the seed
        assert again["per_class"] == result["per_class"]
        for name in ("000.png", "002.png"):
            a, b = (read_label_ids(tree / out / "labels" / name) for out in ("out", "b"))
            assert np.array_equal(a, b)


def test_a_bundle_mends_as_the_model_does(tree: Path, sam_bundle: Path) -> None:
    """Through ONNX Runtime and through PyTorch, with the weights that the package ships."""
    last_json(run("refine", "--sam", "sam_tiny@256", *given(tree, "torch"), "--json"))
    words = ("--sam", sam_bundle, "--backend", "onnxruntime")
    result = last_json(run("refine", *words, *given(tree, "engine"), "--json"))
    assert result["refined"] == 3
    assert read_manifest(tree / "engine", "refinement")["sam"]["backend"] == "onnxruntime"
    for name in ("000.png", "001.png", "002.png"):
        a, b = (read_label_ids(tree / out / "labels" / name) for out in ("torch", "engine"))
        assert np.mean(a == b) > 0.999


def test_bad_files_make_exit_code_one(tree: Path) -> None:
    spoil(tree)
    done = run("refine", *TINY, *given(tree), "--json")
    assert done.returncode == 1
    assert len(json.loads(done.stdout.strip().splitlines()[-1])["failed"]) == 6
    done = run("refine", *TINY, *given(tree))
    assert "FAILED" in done.stdout
    assert "fix:" in done.stdout


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (("--sam", "sam_tiny@100"), "names no input size", "a multiple of 32"),
        (("--sam", "sam_tinny"), "no SAM `sam_tinny`", "`sam_tiny`"),
        (("--sam", "vit_b"), "needs its weights", "sam_vit_b_01ec64.pth"),
        (("--sam", "/tmp"), "/tmp has no manifest.json", "make it again"),
        (("--sam", "vit_b", "--backend", "openvino"), "only a bundle runs on other", "export sam:vit_b"),
        ((*TINY, "--mode", "offical"), "`mode` is `offical`", "mode"),
        ((*TINY, "robust.point=3"), "unknown key `robust.point`", "`robust.points`"),
        ((*TINY, "robust.coverage=2"), "`robust.coverage` is `2`", "robust.coverage"),
        ((*TINY, "multimask=false"), "`multimask` is `False`", "multimask"),
        ((*TINY, "--labels", "/no/where"), "there is no folder /no/where", "path"),
    ],
)
def test_faults(tree: Path, words: tuple[str, ...], message: str, hint: str) -> None:
    folders = given(tree)[: 2 if "--labels" in words else 4]
    done = run("refine", *words, *folders, "--out", tree / "out")
    assert done.returncode == 2
    first, *rest = [line for line in done.stderr.splitlines() if line.strip() and "warning" not in line]
    assert first.startswith("error: ")
    assert message in first
    assert hint in " ".join(rest)
    assert not (tree / "out").exists()
