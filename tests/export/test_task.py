"""The task gate: mIoU lost on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import clouds_deploy
from clouds_deploy.artifacts import read_manifest
from clouds_deploy.config.export import ExportOptions
from clouds_deploy.data.sources import StreetsSource
from clouds_deploy.errors import CloudsError
from clouds_deploy.export import segmenter
from clouds_deploy.export.segmenter import SegmenterSubject, reference, task_gate
from tests.conftest import HEIGHT, WIDTH


@pytest.fixture(scope="module")
def subject(small_run: Path) -> SegmenterSubject:
    made = SegmenterSubject(small_run, ExportOptions(), "cpu")
    made.compute_reference()
    return made


def gates(subject: SegmenterSubject, folder: Path, source: Any) -> list[Any]:
    subject.task = source
    return subject.measure(folder, ("onnxruntime",), "fp32")


def streets(height: int = 96, count: int = 3) -> StreetsSource:
    return StreetsSource("game", seed=3, count=count, height=height, width=160)


def test_the_same_network_loses_nothing(small_bundle: Path, subject: SegmenterSubject) -> None:
    (gate,) = gates(subject, small_bundle, streets())
    assert gate.passed
    assert abs(gate.value) < 0.05
    assert "3 images" in gate.detail


def test_a_graph_that_labels_worse_fails(
    tmp_path: Path, small_bundle: Path, subject: SegmenterSubject
) -> None:
    """The truth is what PyTorch says, so that a broken weight can only lose."""

    class Own(StreetsSource):
        def load(self, index: int) -> Any:
            image = super().load(index)[0]
            return image, reference(subject.segmenter, image[None], "exact")["labels"][0]

    own = Own("game", seed=3, count=2, height=HEIGHT, width=WIDTH)
    (right,) = gates(subject, small_bundle, own)
    assert right.passed
    model = ir.load(small_bundle / "segmenter.onnx")
    weight = next(v for v in model.graph.initializers.values() if v.shape == (32, 20))
    weight.const_value = ir.Tensor(-weight.const_value.numpy(), name=weight.name)
    ir.save(model, tmp_path / "segmenter.onnx")
    (gate,) = gates(subject, tmp_path, own)
    assert not gate.passed
    assert gate.value > 20


def test_a_gain_passes_and_nothing_known_does_not() -> None:
    assert task_gate("x", 50.0, 51.0, 0.1, 1).passed
    assert not task_gate("x", 50.0, 49.8, 0.1, 1).passed
    assert not task_gate("x", float("nan"), float("nan"), 0.1, 1).passed


def test_export_asks_for_it(
    small_run: Path, tmp_path: Path, exported_already: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def few(*given: Any) -> StreetsSource:
        asked.append(given)
        return streets(HEIGHT, 2)

    monkeypatch.setattr(segmenter, "labelled_source", few)
    clouds_deploy.export(small_run, out=tmp_path / "out", engines=("onnxruntime",), layout="streets")
    assert asked == [(small_run, None, "streets")]
    *_, gate = read_manifest(tmp_path / "out", "bundle")["gates"]
    assert (gate["name"], gate["engine"]) == ("mIoU kept", "onnxruntime")


def test_faults_are_told(small_bundle: Path, subject: SegmenterSubject) -> None:
    class Bare(StreetsSource):
        def load(self, index: int) -> tuple[np.ndarray, None]:
            return super().load(index)[0], None

    with pytest.raises(CloudsError, match="no images"):
        gates(subject, small_bundle, streets(64, 0))
    with pytest.raises(CloudsError, match="has no labels"):
        gates(subject, small_bundle, Bare("game", seed=3, count=1, height=64, width=128))
