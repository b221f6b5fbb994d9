"""Refinement that is killed, again and again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.data.images import read_label_ids, write_png
from tests.deadly import ROOT, done, finish, kill_after
from tests.refinement.fakes import folder, scene, spoil

CHILD = """
import json, sys
from pathlib import Path
from clouds_deploy.refinement.refine import RefineWork, run_refine
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.config.joint import RefineConfig
from tests.refinement.fakes import ColourSam
tree = Path(sys.argv[1])
refiner = Refiner(ColourSam(float(sys.argv[3])), RefineConfig())
work = RefineWork(lambda: refiner, tree / "labels", batch=3)
print(json.dumps(run_refine(work, tree / "images", tree / sys.argv[2])))
"""


def child(tree: Path, out: str, seconds: float) -> list[str]:
    return [sys.executable, "-c", CHILD, str(tree), out, str(seconds)]


def test_killed_three_times_every_good_image_is_done_once(tmp_path: Path) -> None:
    folder(tmp_path, 40)
    wanted = spoil(tmp_path)
    out = tmp_path / "out"
    command = child(tmp_path, "out", 0.05)
    counts = [kill_after(command, out, more) for more in (4, 9, 7)]
    assert counts == sorted(counts)
    assert not (out / "manifest.json").exists()
    result = finish(command)
    names = [f"{i:03d}" for i in range(40)]
    assert result["images"] == 40
    assert result["refined"] == 40 - counts[-1]
    assert {Path(f["path"]).name for f in result["failed"]} == set(wanted)
    assert sorted(done(out)) == names
    assert sorted(p.name for p in (out / "labels").iterdir()) == [f"{n}.png" for n in names]
    assert not list(out.rglob(".*"))
    read_manifest(out, "refinement")
    again = finish(command)
    assert again["refined"] == 0
    assert again["per_class"] == result["per_class"]
    whole = finish(child(tmp_path, "whole", 0.0))
    assert whole["per_class"] == result["per_class"]
    for name in names:
        files = [(tmp_path / where / "labels" / f"{name}.png").read_bytes() for where in ("out", "whole")]
        assert files[0] == files[1]


def resident(pid: int) -> float:
    """Resident memory of a process in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.mark.slow
def test_two_thousand_images_killed_three_times_in_flat_memory(tmp_path: Path) -> None:
    for i in range(1990):
        image, labels = scene(i)
        write_png(tmp_path / "images" / f"{i:04d}.png", image)
        write_png(tmp_path / "labels" / f"{i:04d}.png", labels)
    wanted = spoil(tmp_path)
    for i in range(4):
        (tmp_path / "images" / f"z_empty{i}.png").write_bytes(b"")
        write_png(tmp_path / "labels" / f"z_empty{i}.png", np.zeros((64, 64), np.uint8))
    out = tmp_path / "out"
    given = ["--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", out]
    command = [sys.executable, "-m", "clouds_deploy", "refine", *map(str, given)]
    command += ["--sam", "sam_tiny@128", "--weights", "random", "--json"]
    for more in (150, 300, 200):
        kill_after(command, out, more, 900)
    before = len(done(out))
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    memory: list[tuple[int, float]] = []
    end = time.monotonic() + 1800
    while process.poll() is None:
        assert time.monotonic() < end
        count = len(done(out))
        if count > before:
            try:
                memory.append((count, resident(process.pid)))
            except (OSError, IndexError):
                break
        time.sleep(0.5)
    result = json.loads(process.communicate(timeout=60)[0].strip().splitlines()[-1])
    assert process.returncode == 1  # some files are broken
    assert (result["images"], len(result["failed"])) == (1990, 10)
    assert set(wanted) <= {Path(f["path"]).name for f in result["failed"]}
    assert sorted(done(out)) == [f"{i:04d}" for i in range(1990)]
    assert len(list((out / "labels").iterdir())) == 1990
    assert read_label_ids(out / "labels" / "1989.png").shape == (64, 64)
    read_manifest(out, "refinement")
    third = before + (1990 - before) // 3
    early = [m for count, m in memory if third <= count < 2 * third - before]
    late = [m for count, m in memory if count >= 2 * third - before]
    assert np.median(late) < 1.1 * np.median(early), (np.median(early), np.median(late))
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert finish(command)["refined"] == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == stamps
