"""A fault put into the middle of a graph is found there, and what is left of it shows it again."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from clouds_deploy.errors import CloudsError
from clouds_deploy.export.bisect import ARRAYS, FINDING, GRAPH, bisect, explain

RNG = np.random.default_rng(0)
WEIGHTS = [RNG.normal(size=(8, 8)).astype(np.float32) for _ in range(4)]
FEEDS = {"x": RNG.normal(size=(3, 8)).astype(np.float32)}


def chain(path: Path, broken: int | None = None) -> Path:
    """Write four products with an activation after each; two columns of one may be exchanged."""
    nodes, tensors, name = [], [], "x"
    for i, weight in enumerate(WEIGHTS):
        kept = weight[:, [1, 0, *range(2, 8)]] if i == broken else weight
        tensors.append(numpy_helper.from_array(np.ascontiguousarray(kept), f"w{i}"))
        nodes.append(helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"], name=f"layer{i}/product"))
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [f"t{i}"], name=f"layer{i}/act"))
        name = f"t{i}"
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes, "chain", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 8])], tensors,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("broken", [0, 2, 3])
def test_the_broken_layer_is_found(tmp_path: Path, broken: int) -> None:
    right, wrong = chain(tmp_path / "right.onnx"), chain(tmp_path / "wrong.onnx", broken)
    out = tmp_path / "failed"
    found = bisect((right, "onnxruntime"), (wrong, "openvino"), FEEDS, out)
    assert found is not None
    assert found.node == f"layer{broken}/product"
    assert found.inputs_error < 1e-3 < found.error
    assert json.loads((out / FINDING).read_text())["operation"] == "MatMul"
    arrays = np.load(out / ARRAYS)
    source = "x" if broken == 0 else f"t{broken - 1}"
    (again,) = onnxruntime.InferenceSession(out / GRAPH).run(None, {source: arrays[source]})
    np.testing.assert_allclose(again, arrays[found.output], rtol=1e-5, atol=1e-6)
    assert np.abs(again - arrays[f"{found.output} wanted"]).max() > 0.01


def test_a_graph_of_more_than_protobuf_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights lie beside it; shape inference, which takes 2 GB, never sees them."""
    paths = [chain(tmp_path / "right.onnx"), chain(tmp_path / "wrong.onnx", 2)]
    for path in paths:
        model = onnx.load(path)
        place = f"{path.name}.data"
        onnx.save(model, path, save_as_external_data=True, location=place, size_threshold=0)
    infer = onnx.shape_inference.infer_shapes

    def within(model: onnx.ModelProto, **options: bool) -> onnx.ModelProto:
        assert not any(tensor.raw_data for tensor in model.graph.initializer)
        return infer(model, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", within)
    found = bisect((paths[0], "onnxruntime"), (paths[1], "openvino"), FEEDS, tmp_path / "failed")
    assert found is not None
    assert found.node == "layer2/product"
    (again,) = onnxruntime.InferenceSession(tmp_path / "failed" / GRAPH).run(
        None, {"t1": np.load(tmp_path / "failed" / ARRAYS)["t1"]}
    )
    assert again.shape == (3, 8)


def test_nothing_is_wrong(tmp_path: Path) -> None:
    path = chain(tmp_path / "a.onnx")
    assert bisect((path, "onnxruntime"), (path, "openvino"), FEEDS, tmp_path / "failed") is None
    assert not (tmp_path / "failed").exists()
    assert "not what PyTorch computes" in explain("openvino", path, path, FEEDS, tmp_path / "b")


def test_nothing_is_written_over(tmp_path: Path) -> None:
    path = chain(tmp_path / "a.onnx")
    (tmp_path / "failed").mkdir()
    with pytest.raises(CloudsError, match="exists"):
        bisect((path, "onnxruntime"), (path, "openvino"), FEEDS, tmp_path / "failed")


def test_the_sentence_of_a_failed_gate(tmp_path: Path) -> None:
    """A typed graph is compared with the float32 one; an older reproducer makes way."""
    right, wrong = chain(tmp_path / "right.onnx"), chain(tmp_path / "wrong.onnx", 2)
    for _ in range(2):
        said = explain("openvino", wrong, right, FEEDS, tmp_path / "bundle")
        assert "`layer2/product` (MatMul)" in said
        assert str(tmp_path / "bundle.failed") in said
    assert (tmp_path / "bundle.failed" / GRAPH).is_file()


def rounded(path: Path, broken: int | None = None) -> Path:
    """The same products in bfloat16, between two casts, as `--bf16` types a graph."""
    chain(path, broken)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor).astype(ml_dtypes.bfloat16)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = list(model.graph.node)
    nodes[0].input[0], nodes[-1].output[0] = "x low", "y low"
    del model.graph.node[:]
    first = helper.make_node("Cast", ["x"], ["x low"], name="in", to=TensorProto.BFLOAT16)
    last = helper.make_node("Cast", ["y low"], ["y"], name="out", to=TensorProto.FLOAT)
    model.graph.node.extend([first, *nodes, last])
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("broken", [0, 2])
def test_bfloat16_is_looked_into(tmp_path: Path, broken: int) -> None:
    """Without its tensors the last cast would be blamed, which is right."""
    right = chain(tmp_path / "right.onnx")
    out = tmp_path / "failed"
    assert bisect((right, "onnxruntime"), (rounded(tmp_path / "a.onnx"), "openvino"), FEEDS, out,
                  tolerance=0.02) is None  # fmt: skip
    wrong = rounded(tmp_path / "wrong.onnx", broken)
    found = bisect((right, "onnxruntime"), (wrong, "openvino"), FEEDS, out, tolerance=0.02)
    assert found is not None
    assert found.node == f"layer{broken}/product"
    assert found.inputs_error < 0.02 < found.error
    onnx.checker.check_model(str(out / GRAPH), full_check=True)
    arrays = np.load(out / ARRAYS)
    assert np.abs(arrays[found.output] - arrays[f"{found.output} wanted"]).max() > 0.01
