"""The launch files: each trains, over gloo and on the CPU, what one process trains."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.training.segmenter.loop import train
from tests.training.small import small_recipe
from tests.training.test_processes import BATCH, assert_same

ROOT = Path(__file__).parents[2]
LAUNCH = Path("training") / "launch"
SLURM = {"scontrol": 'printf "localhost\\nlocalhost\\n"', "srun": '"$@" & "$@" & wait %1 && wait %2'}
"""Stand-ins: a job of two machines, both of them this one."""


def environment(tools: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    quiet = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return {**os.environ, "PATH": path, **quiet, **more}


def tools(folder: Path) -> Path:
    folder.mkdir()
    for name, body in {**SLURM, "nvidia-smi": "exit 9"}.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (folder / name).chmod(stat.S_IRWXU)
    return folder


@pytest.mark.parametrize("name", ["one_node.sh", "several_nodes.sh", "slurm.sbatch"])
def test_they_are_sound_shell(name: str) -> None:
    subprocess.run(["bash", "-n", ROOT / LAUNCH / name], check=True)
    assert os.access(ROOT / LAUNCH / name, os.X_OK)


def test_what_is_not_said_is_asked_for() -> None:
    done = subprocess.run(
        [ROOT / LAUNCH / "several_nodes.sh"], capture_output=True, text=True, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode != 0
    assert "number of machines" in done.stderr


@pytest.mark.parametrize("restart", ["", "1"])
def test_a_job_put_back_goes_on(restart: str, tmp_path: Path) -> None:
    """What SLURM starts: with --resume, and without --init, once there is a run."""
    place = tools(tmp_path / "tools")
    (place / "srun").write_text('#!/usr/bin/env bash\necho "$NODES $HEAD $PORT $RUN $@"\n')
    job = {"SLURM_JOB_NODELIST": "n[0-1]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "123456"}
    given = environment(place, **job, **({"SLURM_RESTART_COUNT": restart} if restart else {}))
    for there in (False, True):
        out = tmp_path / "run"
        if there:
            out.mkdir()
        words = ["bash", LAUNCH / "slurm.sbatch", "tiny", "--init", "runs/a b", "--out", out, "train.lr=1"]
        done = subprocess.run(words, cwd=ROOT, env=given, capture_output=True, text=True, check=True)
        started = "2 localhost 23456 123456 training/launch/several_nodes.sh tiny"
        fresh = f"{started} --init runs/a b --out {out} train.lr=1\n"
        again = f"{started} --out {out} train.lr=1 --resume\n"
        assert done.stdout == (again if there and restart else fresh)


@pytest.mark.slow
def test_each_trains_what_one_process_trains(tmp_path: Path) -> None:
    recipe = small_recipe(*BATCH)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    train(recipe, tmp_path / "one")
    place = tools(tmp_path / "tools")
    job = {"SLURM_JOB_NODELIST": "n[0-1]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": str(os.getpid())}
    two = {"NODES": "2", "HEAD": "localhost", "PORT": str(20000 + os.getpid() % 9000)}
    ways: dict[str, tuple[int, dict[str, str]]] = {
        "one_node.sh": (1, {"PROCESSES": "2"}),
        "several_nodes.sh": (2, two),
        "slurm.sbatch": (1, job),
    }
    for name, (starts, more) in ways.items():
        out = tmp_path / name
        words = ["bash", str(LAUNCH / name), str(tmp_path / "recipe.yaml"), "--out", str(out)]
        started = [
            subprocess.Popen(
                words, cwd=ROOT, env=environment(place, **more), stderr=subprocess.PIPE, text=True
            )
            for _ in range(starts)
        ]
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors
        assert_same(tmp_path / "one", out)
        assert read_manifest(out, "run")["processes"] == 2
