from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from clouds_deploy.backends.backends import GRAPH_BACKENDS, open_graph
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.gates import BATCH, Gate, require_passed
from clouds_deploy.export.segmenter import batch_gates, label_gates
from clouds_deploy.inference.agreement import run_batched


def spoil(bundle: Path, to: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    model = onnx.load(str(bundle / "segmenter.onnx"))
    change(model)
    onnx.save(model, str(to))
    return to


def gates_of(graph: Path, bundle: Path, engine: str) -> dict[str, Gate]:
    opened = open_bundle(bundle)
    expected = opened.reference()
    images = expected["image"]
    session = open_graph(graph, engine)
    limits = opened.recipe.export
    labels = run_batched(session, images, BATCH)["labels"]
    gates = label_gates(engine, labels, expected["labels"], limits.label_agreement, "4 images")
    gates += batch_gates(engine, session, images, limits.batch_agreement)
    return {gate.name: gate for gate in gates}


@pytest.mark.parametrize("engine", GRAPH_BACKENDS)
def test_good_graph_passes(small_bundle: Path, engine: str) -> None:
    gates = gates_of(small_bundle / "segmenter.onnx", small_bundle, engine)
    assert [name for name, gate in gates.items() if not gate.passed] == []
    require_passed(list(gates.values()))


@pytest.mark.parametrize("engine", GRAPH_BACKENDS)
def test_perturbed_weight_fails(tmp_path: Path, small_bundle: Path, engine: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        weight = next(i for i in model.graph.initializer if list(i.dims) == [32, 20])
        array = numpy_helper.to_array(weight).copy()
        array += np.random.default_rng(0).normal(0, 0.3, array.shape).astype(np.float32)
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))

    gates = gates_of(spoil(small_bundle, tmp_path / "g.onnx", change), small_bundle, engine)
    assert not gates["labels equal"].passed
    assert gates["equal rows stay equal"].passed
    with pytest.raises(CloudsError, match="FAILED") as caught:
        require_passed(list(gates.values()))
    assert caught.value.exit_code == 1


def test_graph_whose_rows_see_each_other_fails(tmp_path: Path, small_bundle: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        """Take the batch's mean from every image."""
        first = model.graph.node[0]
        pixels = first.output[0]
        model.graph.initializer.append(numpy_helper.from_array(np.array([0], np.int64), "axis0"))
        model.graph.initializer.append(numpy_helper.from_array(np.array(127, np.float32), "grey"))
        for node in model.graph.node[1:]:
            for index, name in enumerate(node.input):
                if name == pixels:
                    node.input[index] = "mixed"
        model.graph.node.insert(
            1, helper.make_node("ReduceMean", [pixels, "axis0"], ["mean"], "planted_mean")
        )
        model.graph.node.insert(2, helper.make_node("Sub", [pixels, "mean"], ["rest"], "planted_sub"))
        model.graph.node.insert(3, helper.make_node("Add", ["rest", "grey"], ["mixed"], "planted_add"))

    gates = gates_of(spoil(small_bundle, tmp_path / "g.onnx", change), small_bundle, "onnxruntime")
    assert not gates["batch 1 = batch N"].passed


def test_graph_whose_rows_depend_on_their_place_fails(tmp_path: Path, small_bundle: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        """Darken every row of the batch by its number."""
        pixels = model.graph.node[0].output[0]
        for node in model.graph.node[1:]:
            for index, name in enumerate(node.input):
                if name == pixels:
                    node.input[index] = "mixed"
        constants = {
            "zero": np.array(0.0, np.float32),
            "axis": np.array(0, np.int64),
            "step": np.array(40, np.float32),
        }
        for name, value in constants.items():
            model.graph.initializer.append(numpy_helper.from_array(value, f"planted_{name}"))
        planted = [
            helper.make_node("Mul", [pixels, "planted_zero"], ["zeros"], "planted_0"),
            helper.make_node("Add", ["zeros", "planted_step"], ["steps"], "planted_1"),
            helper.make_node("CumSum", ["steps", "planted_axis"], ["stairs"], "planted_2"),
            helper.make_node("Sub", [pixels, "stairs"], ["mixed"], "planted_3"),
        ]
        for offset, node in enumerate(planted):
            model.graph.node.insert(1 + offset, node)

    gates = gates_of(spoil(small_bundle, tmp_path / "g.onnx", change), small_bundle, "onnxruntime")
    assert not gates["equal rows stay equal"].passed
    assert not gates["shuffled rows"].passed
