"""The command line as a user meets it: results, JSON, messages, exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from clouds_deploy.artifacts import write_manifest
from tests.cli.conftest import SMALL, last_json, run
from tests.data import trees


def test_a_finished_run_is_resumed_to_itself(trained: Path) -> None:
    result = last_json(run("train", "tiny", *SMALL, "--out", trained, "--resume", "--json"))
    assert result["steps"] == 2
    assert run("train", "tiny", *SMALL, "--out", trained, "--resume").returncode == 0
    done = run("train", "tiny", *SMALL, "--out", trained)
    assert done.returncode == 2
    assert "exists already" in done.stderr


def test_the_road_from_run_to_bench(trained: Path, bundle: Path, tmp_path: Path) -> None:
    scores = last_json(run("evaluate", trained, "--domain", "photo", "--images", "3", "--json"))
    again = last_json(run("evaluate", bundle, "--domain", "photo", "--images", "3", "--json"))
    assert scores["images"] == again["images"] == 3
    assert scores["data"] == "streets/photo"
    assert scores["miou"] == pytest.approx(again["miou"], abs=0.05)
    trees.folder(tmp_path / "data")
    folder = ("--data", tmp_path / "data", "--layout", "folder", "--split", "all")
    assert last_json(run("evaluate", trained, *folder, "--json"))["images"] == 3
    (tmp_path / "data" / "images" / "bad.png").write_text("x")
    done = run("predict", bundle, tmp_path / "data" / "images", "--out", tmp_path / "p", "--json")
    assert done.returncode == 1
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert result["images"] == 3
    assert "bad.png" in result["failed"][0]["path"]
    assert len(list((tmp_path / "p" / "labels").rglob("*.png"))) == 3
    timed = last_json(run("bench", bundle, "--out", tmp_path / "b", "--seconds", "0.2", "--json"))
    assert {r["backend"] for r in timed["bundles"][0]["results"]} == {  # type: ignore[index]
        "torch",
        "onnxruntime",
        "openvino",
    }
    assert (tmp_path / "b" / "report.html").is_file()
    home = bundle.parents[1]
    done = run("bench", "--suite", "smoke", "--backend", "onnxruntime", cwd=home)
    assert done.returncode == 0, done.stderr
    assert "newest bundle, bundles/tiny-fp16" in done.stderr
    assert "p50 ms" in done.stdout
    assert (home / "bench" / "tiny-fp16" / "report.html").is_file()
    done = run("predict", tmp_path / "data" / "images" / "a0.png", cwd=home)
    assert "1 images" in done.stdout
    assert (home / "predictions" / "a0" / "labels" / "a0.png").is_file()


def test_people_get_a_table(trained: Path) -> None:
    done = run("evaluate", trained, "--images", "2")
    assert done.returncode == 0
    assert "bicycle" in done.stdout
    assert "mIoU" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("train", "tinny"), "no recipe `tinny`", "`tiny`"),
        (("train", "tiny", "traln.lr=1"), "unknown key `traln.lr`", "`train.lr`"),
        (("train", "tiny", "data.layout=cityscape", "data.root=/tmp"), "no layout `cityscape`", "cityscapes"),
        (("train", "tiny", "data.layout=cityscapes"), "needs a folder", "data.root"),
        (("train", "tiny", "data.domain=gmae"), "gmae", "`game`"),
        (("train", "tiny", "model.backbone.weights=/no/where.pth"), "/no/where.pth", "random"),
        (("train", "tiny", "--resume", "--out", "/tmp/no-such-run"), "/tmp/no-such-run", ""),
        (("evaluate", "/tmp/no-such-run"), "/tmp/no-such-run", ""),
        (("export", "/tmp/no-such-run", "--out", "/tmp/x"), "/tmp/no-such-run", ""),
        (("data", "check", "/tmp/no-such-data", "--layout", "folder"), "/tmp/no-such-data", "--data"),
        (("import", "/tmp/no-such.pth", "--out", "/tmp/no-such-out"), "/tmp/no-such.pth", ""),
        (("train", "gta_convnext_l_joint"), "mobile_sam.pt, and none were given", "https://"),
        (("recipes", "cat", "tinny"), "no recipe `tinny`", "`tiny`"),
    ],
)
def test_faults_take_two_lines_and_exit_two(
    arguments: tuple[str, ...], message: str, hint: str, tmp_path: Path
) -> None:
    out = () if "--out" in arguments or arguments[0] != "train" else ("--out", tmp_path / "never")
    done = run(*arguments, *out)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    first, *rest = [line for line in done.stderr.splitlines() if line.strip()]
    assert first.startswith("error: ")
    assert message in first
    assert hint in " ".join(rest)
    assert not list(tmp_path.iterdir())


def test_unknown_backends_are_named(bundle: Path, tmp_path: Path) -> None:
    done = run("bench", bundle, "--out", tmp_path / "b", "--backend", "onnxruntim")
    assert done.returncode == 2
    assert "onnxruntime" in done.stderr
    done = run("predict", bundle, tmp_path, "--out", tmp_path / "p")
    assert done.returncode == 2
    assert "holds no images" in done.stderr
    assert not (tmp_path / "p").exists()


def test_a_flipped_byte_is_refused(bundle: Path, tmp_path: Path) -> None:
    import shutil

    copy = shutil.copytree(bundle, tmp_path / "copy")
    graph = copy / "segmenter.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    done = run("evaluate", copy, "--images", "1")
    assert done.returncode == 2
    assert "segmenter.onnx is not the file its manifest names" in done.stderr


def test_data_check_names_bad_files_and_exits_one(tmp_path: Path) -> None:
    root = trees.cityscapes(tmp_path)
    assert run("data", "check", root, "--layout", "cityscapes").returncode == 0
    next(root.rglob("*_leftImg8bit.png")).write_bytes(b"")
    done = run("data", "check", root, "--layout", "cityscapes")
    assert done.returncode == 1
    assert "BAD" in done.stdout
    assert "fix:" in done.stdout


def test_a_foreign_directory_is_no_run(tmp_path: Path) -> None:
    write_manifest(tmp_path, "bundle")
    done = run("export", tmp_path, "--out", tmp_path / "x")
    assert done.returncode == 2
    assert "is a bundle, not a run" in done.stderr


def test_doctor_and_version() -> None:
    result = last_json(run("doctor", "--json"))
    assert result["ok"] is True
    names = {check["name"] for check in result["checks"]}  # type: ignore[attr-defined]
    assert {"torch", "torchvision", "onnxruntime", "openvino", "tensorrt"} <= names
    assert run("--version").stdout.strip() == __import__("clouds_deploy").__version__


def test_recipes(tmp_path: Path) -> None:
    assert "tiny" in last_json(run("recipes", "ls", "--json"))["recipes"]  # type: ignore[operator]
    assert "learning" not in run("recipes", "cat", "tiny", "train.lr=1e-3").stderr
    done = run("recipes", "cp", "tiny", tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "tiny.yaml").is_file()


def test_the_installed_command_and_the_module_are_one(tmp_path: Path) -> None:
    script = Path(sys.executable).parent / "clouds-deploy"
    for command in ([str(script)], [sys.executable, "-m", "clouds_deploy"]):
        done = subprocess.run(
            [*command, "recipes", "cat", "tinny"], capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert done.returncode == 2
        assert done.stderr.splitlines()[0] == "error: there is no recipe `tinny`"
