"""Every rewriting rule on a small graph of its own: numbers stay, nodes go."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from clouds_deploy.export.simplify import simplify


def both(tmp_path: Path, nodes: list, constants: dict[str, np.ndarray], output: list[int | str]) -> list[str]:
    """Run a graph float `x` (batch, 4, 6, 8) to `y` before and after; give the operations left."""
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 8])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, output)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    simple = ir.serde.deserialize_model(model)
    simplify(simple)
    x = np.random.default_rng(0).normal(size=(3, 4, 6, 8)).astype(np.float32)
    results = []
    for proto in (model, ir.serde.serialize_model(simple)):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        results.append(session.run(None, {"x": x})[0])
    assert np.array_equal(results[0], results[1])
    return [node.op_type for node in simple.graph]


def test_reshape_to_a_computed_shape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "s", start=0, end=1),
        helper.make_node("Concat", ["s", "rest"], ["t"], "c", axis=0),
        helper.make_node("Reshape", ["x", "t"], ["y"], "r"),
    ]
    left = both(tmp_path, nodes, {"rest": np.array([24, 8])}, ["batch", 24, 8])
    assert left == ["Reshape"]


def test_reshape_to_the_shape_that_is_there(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "a"),
        helper.make_node("Reshape", ["r", "same"], ["t"], "b"),
        helper.make_node("Sigmoid", ["t"], ["y"], "c"),
    ]
    left = both(tmp_path, nodes, {"same": np.array([-1, 4, 6, 8])}, ["batch", 4, 6, 8])
    assert left == ["Relu", "Sigmoid"]


def test_reshapes_around_a_transpose_become_one(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["p"], "p", perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["p", "flat"], ["f"], "f"),
        helper.make_node("Transpose", ["f"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["t", "back"], ["y"], "b"),
    ]
    constants = {"flat": np.array([-1, 4, 8]), "back": np.array([-1, 6, 8, 4])}
    assert both(tmp_path, nodes, constants, ["batch", 6, 8, 4]) == ["Transpose"]


def test_a_look_alike_that_mixes_axes_is_left_alone(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "flat"], ["f"], "f"),
        helper.make_node("Transpose", ["f"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("Reshape", ["t", "back"], ["y"], "b"),
    ]
    constants = {"flat": np.array([-1, 12, 16]), "back": np.array([-1, 4, 8, 6])}
    assert both(tmp_path, nodes, constants, ["batch", 4, 8, 6]) == ["Reshape", "Transpose", "Reshape"]


def test_transposes_that_cancel(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], "a", perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["a"], ["b"], "b", perm=[0, 3, 1, 2]),
        helper.make_node("Relu", ["b"], ["y"], "c"),
    ]
    assert both(tmp_path, nodes, {}, ["batch", 4, 6, 8]) == ["Relu"]


def resize(sizes: list[int]) -> tuple[list, dict[str, np.ndarray]]:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], "s", start=0, end=2),
        helper.make_node("Concat", ["s", "rest"], ["t"], "c", axis=0),
        helper.make_node("Resize", ["x", "", "", "t"], ["y"], "r", mode="linear"),
    ]
    return nodes, {"rest": np.array(sizes)}


def test_resize_by_a_power_of_two_gets_constant_scales(tmp_path: Path) -> None:
    nodes, constants = resize([12, 32])
    assert both(tmp_path, nodes, constants, ["batch", 4, 12, 32]) == ["Resize"]


def test_other_ratios_keep_their_sizes(tmp_path: Path) -> None:
    nodes, constants = resize([9, 12])
    assert "Concat" in both(tmp_path, nodes, constants, ["batch", 4, 9, 12])


def test_guard_against_masked_rows_goes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"], "p", axis=-1),
        helper.make_node("IsNaN", ["p"], ["n"], "n"),
        helper.make_node("Where", ["n", "zero", "p"], ["q"], "w"),
        helper.make_node("Relu", ["q"], ["y"], "r"),
    ]
    assert both(tmp_path, nodes, {"zero": np.array(0, np.float32)}, ["batch", 4, 6, 8]) == ["Softmax", "Relu"]


def test_gather_by_32_bit_indices(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["a"], "a", axis=0, keepdims=0),
        helper.make_node("Cast", ["a"], ["i"], "i", to=TensorProto.INT32),
        helper.make_node("Cast", ["i"], ["j"], "j", to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "j"], ["y"], "g"),
    ]
    table = np.arange(5, dtype=np.float32)
    assert both(tmp_path, nodes, {"table": table}, [4, 6, 8]).count("Cast") == 1
