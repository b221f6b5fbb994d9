from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from clouds_deploy.backends.backends import open_graph
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.lint import lint, require_clean


def graph(*nodes: onnx.NodeProto, height: int | str = 4) -> onnx.ModelProto:
    """Plant nodes (float `x` to float `y`) between the casts of a small graph."""
    cast_in = helper.make_node("Cast", ["image"], ["x"], "first", to=TensorProto.FLOAT)
    cast_out = helper.make_node("Cast", ["y" if nodes else "x"], ["labels"], "last", to=TensorProto.UINT8)
    sizes = ["batch", height, 4, 3]
    return helper.make_model(
        helper.make_graph(
            [cast_in, *nodes, cast_out],
            "g",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, sizes)],
            [helper.make_tensor_value_info("labels", TensorProto.UINT8, sizes)],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )


def rules(model: onnx.ModelProto) -> set[str]:
    return {finding.rule for finding in lint(model)}


def test_sound_graphs_pass(small_bundle: Path) -> None:
    assert lint(graph()) == []
    assert lint(onnx.load(str(small_bundle / "segmenter.onnx"))) == []


def test_planted_nonzero() -> None:
    model = graph(
        helper.make_node("NonZero", ["x"], ["z"], "nz"), helper.make_node("Relu", ["x"], ["y"], "r")
    )
    assert "no NonZero" in rules(model)
    with pytest.raises(CloudsError, match="nz: its output's shape depends on the data") as caught:
        require_clean(model)
    assert caught.value.exit_code == 1


def test_planted_gridsample(small_bundle: Path) -> None:
    model = onnx.load(str(small_bundle / "segmenter.onnx"))
    model.graph.node.insert(5, helper.make_node("GridSample", ["permute", "permute"], ["planted"], "gs"))
    assert "no GridSample" in rules(model)


def test_other_domain() -> None:
    model = graph(helper.make_node("Gelu", ["x"], ["y"], "g", domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert "default domain" in rules(model)


def test_transposing_bytes() -> None:
    model = graph()
    model.graph.node.insert(0, helper.make_node("Transpose", ["image"], ["t"], "t", perm=[0, 3, 1, 2]))
    model.graph.node[1].input[0] = "t"
    assert rules(model) == {"cast first"}
    assert len(lint(model)) == 2


def test_labels_not_from_a_cast() -> None:
    model = graph()
    model.graph.node.append(helper.make_node("Identity", ["labels"], ["late"], "i"))
    model.graph.output[0].name = "late"
    assert "cast last" in rules(model)


def test_free_height() -> None:
    assert "static sizes" in rules(graph(height="h"))


def test_64_bit_arithmetic() -> None:
    model = graph(
        helper.make_node("Shape", ["x"], ["s"], "s"),
        helper.make_node("Mul", ["s", "s"], ["m"], "m"),
        helper.make_node("Relu", ["x"], ["y"], "r"),
    )
    assert "no 64-bit arithmetic" in rules(model)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(TensorProto.INT64, "int64"), (TensorProto.INT32, "int32"), (TensorProto.BFLOAT16, "bfloat16")],
)
def test_labels_cast_from_other_types_than_documented(kind: int, name: str) -> None:
    (fault,) = lint(graph(helper.make_node("Cast", ["x"], ["y"], "c", to=kind)))
    assert fault.rule == "cast last"
    assert fault.reason == f"it is cast from {name}, not from float32 or float16"


def test_labels_cast_from_float16_are_sound() -> None:
    assert lint(graph(helper.make_node("Cast", ["x"], ["y"], "c", to=TensorProto.FLOAT16))) == []


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_all_bytes_survive_the_two_casts(tmp_path: Path, backend: str) -> None:
    """The labels' casts, integers to float to uint8, are exact for each value and on each backend."""
    numbers = np.arange(256, dtype=np.int64)
    values = helper.make_tensor("v", TensorProto.INT64, [256, 1, 1, 1], numbers)
    steps = [
        helper.make_node("Cast", ["image"], ["x"], to=TensorProto.INT64),
        helper.make_node("Mul", ["x", "v"], ["n"]),
        helper.make_node("Cast", ["n"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["f"], ["labels"], to=TensorProto.UINT8),
    ]
    edges = [helper.make_tensor_value_info(n, TensorProto.UINT8, [256, 1, 1, 1]) for n in ("image", "labels")]
    made = helper.make_graph(steps, "g", edges[:1], edges[1:], [values])
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
        tmp_path / "g.onnx",
    )
    session = open_graph(tmp_path / "g.onnx", backend)
    found = session.run({"image": np.ones((256, 1, 1, 1), np.uint8)})["labels"]
    assert found.dtype == np.uint8
    assert found.ravel().tolist() == numbers.tolist()
