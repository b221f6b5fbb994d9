"""The task gate: mIoU lost on labelled images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

import clouds_deploy
from clouds_deploy.artifacts import read_manifest
from clouds_deploy.data.sources import StreetsSource
from clouds_deploy.errors import CloudsError
from clouds_deploy.export import bundle as exporting
from clouds_deploy.export.task import _gate, task_gates
from tests.conftest import HEIGHT, WIDTH


def gates(graph: Path, segmenter: Any, source: Any, limit: float = 0.1) -> list[Any]:
    engines = {"onnxruntime": "onnxruntime"}
    grey = (127, 127, 127)
    return task_gates(engines, graph, segmenter, "exact", source, (HEIGHT, WIDTH), grey, {}, limit)


def streets(height: int = 96) -> StreetsSource:
    return StreetsSource("game", seed=3, count=3, height=height, width=160)


def test_the_same_network_loses_nothing(small_bundle: Path, small_segmenter: Any) -> None:
    (gate,) = gates(small_bundle / "segmenter.onnx", small_segmenter, streets())
    assert gate.passed
    assert abs(gate.value) < 0.05
    assert "3 images" in gate.detail


def test_a_graph_that_labels_worse_fails(tmp_path: Path, small_bundle: Path, small_segmenter: Any) -> None:
    """The truth is what PyTorch says, so that a broken weight can only lose."""

    class Own(StreetsSource):
        def load(self, index: int) -> Any:
            from clouds_deploy.export.gates import reference

            image = super().load(index)[0]
            return image, reference(small_segmenter, image[None], "exact")["labels"][0]

    own = Own("game", seed=3, count=2, height=HEIGHT, width=WIDTH)
    (right,) = gates(small_bundle / "segmenter.onnx", small_segmenter, own)
    assert right.passed
    model = ir.load(small_bundle / "segmenter.onnx")
    weight = next(v for v in model.graph.initializers.values() if v.shape == (32, 20))
    weight.const_value = ir.Tensor(-weight.const_value.numpy(), name=weight.name)
    ir.save(model, tmp_path / "broken.onnx")
    (gate,) = gates(tmp_path / "broken.onnx", small_segmenter, own, limit=5.0)
    assert not gate.passed
    assert gate.value > 20


def test_a_gain_passes_and_nothing_known_does_not() -> None:
    assert _gate("x", 50.0, 51.0, 0.1, 1).passed
    assert not _gate("x", 50.0, 49.8, 0.1, 1).passed
    assert not _gate("x", float("nan"), float("nan"), 0.1, 1).passed


def test_export_asks_for_it(
    small_run: Path, tmp_path: Path, exported_already: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}
    real = exporting.task_gates

    def spy(*given: Any) -> Any:
        asked["images"] = len(given[4])
        few = StreetsSource("game", seed=3, count=2, height=HEIGHT, width=WIDTH)
        return real(*given[:4], few, *given[5:])

    monkeypatch.setattr(exporting, "task_gates", spy)
    monkeypatch.setattr(exporting, "prove", lambda *_: [])
    clouds_deploy.export(small_run, out=tmp_path / "out", engines=("onnxruntime",), layout="streets")
    assert asked["images"] == 100
    (gate,) = read_manifest(tmp_path / "out", "bundle")["gates"]
    assert (gate["name"], gate["engine"]) == ("mIoU kept", "onnxruntime")


def test_faults_are_told(small_bundle: Path, small_segmenter: Any) -> None:
    class Bare(StreetsSource):
        def load(self, index: int) -> tuple[np.ndarray, None]:
            return super().load(index)[0], None

    graph = small_bundle / "segmenter.onnx"
    with pytest.raises(CloudsError, match="no images"):
        gates(graph, small_segmenter, StreetsSource("game", seed=3, count=0, height=64, width=128))
    with pytest.raises(CloudsError, match="has no labels"):
        gates(graph, small_segmenter, Bare("game", seed=3, count=1, height=64, width=128))
