"""The script that measures on a lent GPU, run dry on the CPU, so that it works when a GPU is there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from clouds_deploy.artifacts import read_json

SCRIPT = Path(__file__).parents[2] / "benchmarks/gpu/bench_gpu.py"


def test_dry_run_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import runpy

    words = ["--device", "cpu", "--case", "sam_tiny", "--eager", "--rounds", "1", "--seconds", "0.01"]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words, "--out", str(tmp_path)])
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    (file,) = tmp_path.glob("*.json")
    cases = read_json(file)["cases"]
    assert cases
    for case in cases.values():
        assert "official, eager" in case["candidates"]
        assert any(name.startswith("ours") for name in case["candidates"])
