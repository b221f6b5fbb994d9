"""FP16 graphs: typed as they say, right in their numbers, and refused where they are not."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from clouds_deploy.artifacts import read_manifest
from clouds_deploy.backends.backends import open_graph, open_session, readers, require_runs
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.config.export import ExportConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.export import segmenter
from clouds_deploy.export.export import export
from clouds_deploy.export.flops import flops_by_type, share
from clouds_deploy.export.gates import Tolerance, closeness, flops_gate
from clouds_deploy.export.half import BF16, FP16, peak_values, rounded, to_half
from clouds_deploy.export.lint import lint
from clouds_deploy.inference.segmenter import open_model


def graph(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], width: int = 4) -> ir.Model:
    """A graph `x` (batch, width) -> `y`."""
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", width])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    proto = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def chain() -> ir.Model:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["a"], name="head/first"),
        helper.make_node("Relu", ["a"], ["b"], name="head/relu"),
        helper.make_node("MatMul", ["b", "second"], ["c"], name="head/second"),
        helper.make_node("Softmax", ["c"], ["y"], name="softmax"),
    ]
    weights = {
        "first": rng.normal(size=(4, 16)).astype(np.float32),
        "second": rng.normal(size=(16, 4)).astype(np.float32),
    }
    return graph(nodes, weights)


def run(model: ir.Model, path: Path, x: np.ndarray) -> np.ndarray:
    ir.save(model, path)
    onnx.checker.check_model(str(path), full_check=True)
    return open_graph(path, "onnxruntime").run({"x": x})["y"]


def test_types_all_but_the_islands(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    model = chain()
    right = run(model, tmp_path / "fp32.onnx", x)
    typed = to_half(model, ["Softmax$", "^head/second "], [{"x": x}])
    assert typed.reasons == {"Softmax$": 1, "^head/second ": 1}
    found = run(typed.model, tmp_path / "fp16.onnx", x)
    np.testing.assert_allclose(found, right, atol=2e-3)
    assert not np.array_equal(found, right)
    assert flops_by_type(tmp_path / "fp32.onnx") == {"float": 256}
    assert flops_by_type(tmp_path / "fp16.onnx", {"batch": 3}) == {"float16": 384, "float": 384}
    assert ir.DataType.FLOAT16 not in {value.dtype for node in model.graph for value in node.outputs}
    saved = onnx.load(str(tmp_path / "fp16.onnx"))
    assert saved.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert saved.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_ranges_keep_what_would_overflow(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "many"], ["a"], name="grow"),
        helper.make_node("Mul", ["a", "few"], ["b"], name="shrink"),
        helper.make_node("Relu", ["b"], ["y"], name="last"),
    ]
    model = graph(nodes, {"many": np.float32(3e4).reshape(1), "few": np.float32(1e-4).reshape(1)})
    x = np.full((1, 4), 5.0, np.float32)
    assert peak_values(model, [{"x": x}])["a"] == pytest.approx(1.5e5)
    typed = to_half(model, [], [{"x": x}])
    assert set(typed.islands) == {"grow", "shrink"}
    np.testing.assert_allclose(run(typed.model, tmp_path / "a.onnx", x), 15.0, rtol=1e-3)
    blind = to_half(model, [])
    assert blind.islands == {}
    assert np.isinf(run(rounded(blind.model), tmp_path / "b.onnx", x)).all()


def test_constants_that_float16_loses_stay() -> None:
    nodes = [
        helper.make_node("Max", ["x", "epsilon"], ["a"], name="clamp"),
        helper.make_node("Div", ["x", "a"], ["b"], name="divide"),
        helper.make_node("Add", ["b", "huge"], ["y"], name="add"),
    ]
    model = graph(nodes, {"epsilon": np.float32(1e-12), "huge": np.float32(2 * FP16.largest)})
    assert to_half(model, []).islands == {"clamp": "constant", "add": "constant"}


def test_rounding_is_spelled_out_where_runtimes_leave_it_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "large"], ["a"], name="up"),
        helper.make_node("Sub", ["a", "large"], ["y"], name="down"),
    ]
    typed = to_half(graph(nodes, {"large": np.float32(2048)}), []).model
    x = np.full((1, 4), 0.33, np.float32)
    assert (run(rounded(typed), tmp_path / "rounded.onnx", x) == 0).all()


def test_wrong_regex() -> None:
    with pytest.raises(CloudsError, match="is not a regex"):
        to_half(chain(), ["("])


def test_float32_passed_off_as_float16_fails(tmp_path: Path) -> None:
    ir.save(chain(), tmp_path / "fp32.onnx")
    gate = flops_gate(tmp_path / "fp32.onnx", 0.9)
    assert not gate.passed
    assert gate.value == 0.0
    half = to_half(chain(), ["^head/second "]).model
    ir.save(half, tmp_path / "half.onnx")
    assert flops_gate(tmp_path / "half.onnx", 0.9).value == 0.5
    assert share({}, "float16") == 0.0


def test_closeness_fails_for_a_swapped_weight(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)
    model = chain()
    right = run(model, tmp_path / "a.onnx", x)
    weight = model.graph.initializers["second"]
    weight.const_value = ir.Tensor(weight.const_value.numpy()[:, ::-1].copy(), name="second")
    limits = ExportConfig().fp16
    tolerance = Tolerance(limits.max_score_error, limits.relative_error, limits.cosine)
    wrong = closeness("x", "score", run(model, tmp_path / "b.onnx", x), right, tolerance, "")
    assert [gate.passed for gate in wrong] == [False, False, False]
    good = closeness("x", "score", right + np.float32(1e-4), right, tolerance, "")
    assert all(gate.passed for gate in good)
    assert not closeness("x", "score", right[:2], right, tolerance, "")[0].passed
    assert not any(g.passed for g in closeness("x", "score", right * np.nan, right, tolerance, ""))


def test_half_bundle_passed_its_gates(half_bundle: Path) -> None:
    manifest = read_manifest(half_bundle, "bundle")
    gates = {(gate["engine"], gate["name"]): gate for gate in manifest["gates"]}
    assert all(gate["passed"] for gate in gates.values())
    assert gates["graph fp16", "FLOPs in float16"]["value"] >= 0.9
    for engine in ("onnxruntime fp16", "rounded fp16"):
        assert gates[engine, "labels equal"]["value"] >= 0.93
        assert gates[engine, "score cosine"]["value"] >= 0.999
    assert ("onnxruntime fp16", "shuffled rows") in gates
    assert manifest["precision"] == "fp16"
    graph = onnx.load(str(half_bundle / "segmenter.onnx"))
    assert not lint(graph)
    assert graph.ir_version == 8


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_half_bundle_runs_like_any(half_bundle: Path, backend: str) -> None:
    bundle = open_bundle(half_bundle)
    assert (bundle.precision, bundle.limit("label_agreement")) == ("fp16", 0.93)
    expected = bundle.reference()
    images = expected["image"]
    session = open_session(bundle, backend)
    assert [str(spec) for spec in session.inputs] == ["image uint8 (any, 64, 128, 3)"]
    assert session.outputs[0].dtype == "uint8"
    segmenter = open_model(half_bundle, backend=backend)
    labels = np.stack([segmenter.predict(image) for image in images])
    assert (labels == expected["labels"]).mean() >= 0.93


def test_half_bundle_is_half_as_large(half_bundle: Path, small_bundle: Path) -> None:
    sizes = [(path / "segmenter.onnx").stat().st_size for path in (half_bundle, small_bundle)]
    assert sizes[0] < 0.6 * sizes[1]


@pytest.mark.parametrize("fault", ["float32", "weight"])
def test_failed_gate_leaves_no_bundle(
    tmp_path: Path,
    small_run: Path,
    exported_already: None,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
) -> None:
    def spoiled(model, *given):
        typed = to_half(model, *given)
        if fault == "float32":
            wrong = model.clone()
        else:
            wrong = typed.model.clone()
            weights = [v for v in wrong.graph.initializers.values() if v.shape == (32, 20)]
            assert weights
            for value in weights:
                value.const_value = ir.Tensor(value.const_value.numpy()[:, ::-1].copy(), name=value.name)
        return replace(typed, model=wrong)

    monkeypatch.setattr(segmenter, "to_half", spoiled)
    with pytest.raises(CloudsError, match="FAILED") as caught:
        export(small_run, out=tmp_path / "out", engines=("onnxruntime",), fp16=True)
    wanted = "FLOPs in float16" if fault == "float32" else "labels equal"
    assert any("FAILED" in line and wanted in line for line in caught.value.message.splitlines())
    left = [path.name for path in tmp_path.iterdir()]
    if fault == "float32":  # a fault of the file, not of what it computes
        assert left == []
    else:  # the product with the spoiled weight is named and kept
        assert left == ["out.failed"]
        finding = json.loads((tmp_path / "out.failed" / "finding.json").read_text())
        assert finding["operation"] in ("MatMul", "Gemm"), finding
        assert finding["node"] in caught.value.hint


def test_bfloat16_is_typed_run_and_refused(tmp_path: Path) -> None:
    """The same pass: OpenVINO runs its graph, ONNX Runtime cannot, and large values stay."""
    x = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    model = chain()
    right = run(model, tmp_path / "fp32.onnx", x)
    typed = to_half(model, ["Softmax$"], [{"x": 1e5 * x}], BF16)
    assert typed.islands == {"softmax": "Softmax$"}
    assert set(to_half(model, ["Softmax$"], [{"x": 1e5 * x}]).reasons) == {"Softmax$", "range"}
    path = tmp_path / "bf16.onnx"
    ir.save(typed.model, path)
    onnx.checker.check_model(str(path), full_check=True)
    assert onnx.load(str(path)).opset_import[0].version == 22
    assert model.graph.opset_imports[""] == 18
    assert flops_by_type(path) == {"bfloat16": 256}
    assert flops_gate(path, 0.9, precision="bf16").passed
    assert not flops_gate(path, 0.9).passed
    found = open_graph(path, "openvino").run({"x": x})["y"]
    spelled = run(rounded(typed.model), tmp_path / "rounded.onnx", x)
    for values in (found, spelled):
        assert 1e-5 < np.abs(values - right).max() < 0.03
    with pytest.raises(CloudsError, match="onnxruntime runs no graph in bf16"):
        require_runs("onnxruntime", "bf16")
    assert readers("bf16") == ("openvino",)


PEAKS = """
import resource
import numpy as np, onnx_ir as ir
from onnx import TensorProto, helper
from clouds_deploy.export.half import peak_values

size, count = 2**22, COUNT
nodes = [helper.make_node("Sin", [f"t{i}"], [f"t{i + 1}"]) for i in range(count)]
ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size]) for name in ("t0", f"t{count}")]
model = ir.from_proto(helper.make_model(helper.make_graph(nodes, "chain", ends[:1], ends[1:]),
                                        opset_imports=[helper.make_opsetid("", 18)], ir_version=10))
peak_values(model, [{"t0": np.ones(size, np.float32)}])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_looking_for_peaks_lets_go_of_what_it_looked_at() -> None:
    def peak(count: int) -> float:
        code = PEAKS.replace("COUNT", str(count))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return int(done.stdout.split()[-1]) / 2**10

    assert peak(40) - peak(4) < 36 * 16 / 3  # MiB; a tensor has 16
