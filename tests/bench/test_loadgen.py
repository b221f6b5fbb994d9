"""A bundle under MLPerf's load generator."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlperf_loadgen")

from benchmarks.loadgen import main
from clouds_deploy.backends.backends import open_session
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.data.sources import StreetsSource
from clouds_deploy.evaluation.evaluate import evaluate


def test_runs_are_valid_and_logged_labels_score_as_evaluate_says(small_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "loadgen.json"
    made = main([str(small_bundle), "--samples", "5", "--seconds", "1", "--batch", "2", "--out", str(out)])
    assert out.exists()
    bundle = open_bundle(small_bundle)
    source = StreetsSource("photo", 7, 5, bundle.height, bundle.width)
    session = open_session(bundle, batch=1)
    wanted = evaluate(
        lambda images: [session.run({"image": image[None]})["labels"][0] for image in images], source
    )
    for scenario, figures in made["scenarios"].items():
        assert figures["result"] == "VALID", (scenario, figures)
        assert figures["miou"] == round(100 * wanted.matrix.miou(), 4)
