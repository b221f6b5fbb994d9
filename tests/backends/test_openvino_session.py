"""A graph compiled for one batch gives what it gives for any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as op

from clouds_deploy.backends.backends import open_graph, open_session
from clouds_deploy.backends.openvino.sums import sum_gathered_rows
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import Staged
from clouds_deploy.bundles.bundle import open_bundle


def gathered(groups: int, entries: int, rows: int, depth: int) -> openvino.Model:
    """Weights times gathered rows, as deformable attention is exported."""
    table = op.parameter([rows, depth], np.float32, name="table")
    index = op.parameter([groups * entries], np.int32, name="index")
    weights = op.parameter([groups, 1, entries], np.float32, name="weights")
    chosen = op.gather(table, index, op.constant(np.int64(0)))
    samples = op.reshape(chosen, op.constant(np.array([groups, entries, depth])), False)
    return openvino.Model([op.matmul(weights, samples, False, False)], [table, index, weights])


def test_sums_of_gathered_rows_are_recognised_and_equal() -> None:
    random = np.random.default_rng(0)
    feeds = [
        random.standard_normal((50, 8)).astype(np.float32),
        random.integers(0, 50, 7 * 6).astype(np.int32),
        random.random((7, 1, 6)).astype(np.float32),
    ]
    model = gathered(7, 6, 50, 8)
    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    expected = core.compile_model(model, "CPU", settings)(feeds)[0].copy()
    assert sum_gathered_rows(model) == 1
    assert not any(node.get_type_name() == "Gather" for node in model.get_ordered_ops())
    found = core.compile_model(model, "CPU", settings)(feeds)[0]
    assert found.shape == expected.shape == (7, 1, 8)
    assert np.abs(found - expected).max() <= 1e-5
    assert sum_gathered_rows(model) == 0


def test_other_products_stay() -> None:
    a, b = op.parameter([2, 3, 4], np.float32), op.parameter([2, 4, 5], np.float32)
    assert sum_gathered_rows(openvino.Model([op.matmul(a, b, False, False)], [a, b])) == 0


def test_a_batch_told_beforehand_changes_nothing_else(small_bundle: Path) -> None:
    bundle = open_bundle(small_bundle)
    images = bundle.reference()["image"]
    two = np.stack([images[0], images[-1]])
    free = open_graph(bundle.file(), "openvino")
    fixed = open_graph(bundle.file(), "openvino", Options(batch=2))
    assert fixed.inputs == free.inputs
    assert fixed.outputs == free.outputs
    for fed in (two, two[:1], two[::-1].copy()):  # a batch that was not told is taken too
        expected = free.run({"image": fed})["labels"]
        assert (fixed.run({"image": fed})["labels"] == expected).mean() >= 0.9999


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_staged_inputs_are_computed_without_being_given_again(small_bundle: Path, backend: str) -> None:
    bundle = open_bundle(small_bundle)
    session = open_session(bundle, backend, batch=1)
    assert isinstance(session, Staged)
    name, images = session.inputs[0].name, bundle.reference()["image"]
    expected = session.run({name: images[:1]})["labels"]
    call = session.stage({name: images[:1]})
    call()
    assert (session.run({name: images[:1]})["labels"] == expected).all()
    call()  # after a run of others
    session.close()


def test_a_refusal_tells_its_cause() -> None:
    from clouds_deploy.backends.openvino.session import _refusal

    told = (
        "Exception from src/inference/src/cpp/core.cpp:132:\nException from src/plugin.cpp:59:\n"
        "Check 'false' failed at src/report.cpp:151:\nModel wasn't fully converted.\nSummary:\n-- no: X\n"
    )
    assert _refusal(Path("a.onnx"), RuntimeError(told)).message == (
        "openvino refuses a.onnx: Model wasn't fully converted. Summary: -- no: X"
    )
    assert _refusal(Path("a.onnx"), RuntimeError("Exception from x.cpp:1")).message.endswith("x.cpp:1")
