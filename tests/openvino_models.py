"""Small OpenVINO models of the forms that the runtimes rewrite."""

from __future__ import annotations

import numpy as np
import openvino
from openvino import opset13 as op

HEADS, SIDE, DEPTH = 3, 4, 8


def attention(batch: int = 2, *, biased: bool = True, key_heads: int = HEADS) -> openvino.Model:
    """Attention over SIDE x SIDE places; its bias is made of rows and columns, as in a SAM's encoder.

    With `key_heads=1` all heads share one key.
    """
    places = SIDE * SIDE
    query, value = (op.parameter([batch, HEADS, places, DEPTH], np.float32) for _ in range(2))
    key = op.parameter([batch, key_heads, DEPTH, places], np.float32)
    rows = op.parameter([batch, HEADS, places, SIDE, 1], np.float32)
    columns = op.parameter([batch, HEADS, places, 1, SIDE], np.float32)
    scores = op.matmul(query, key, False, False)
    if biased:
        shape = op.constant(np.array([batch, HEADS, places, places]))
        scores = op.add(scores, op.reshape(op.add(rows, columns), shape, False))
    seen = op.matmul(op.softmax(scores, -1), value, False, False)
    given = [query, key, value, rows, columns] if biased else [query, key, value]
    return openvino.Model([op.relu(seen)], given)


def feeds(model: openvino.Model) -> list[np.ndarray]:
    """Random inputs."""
    random = np.random.default_rng(0)
    return [random.standard_normal(tuple(v.shape)).astype(np.float32) for v in model.inputs]


def outcome(model: openvino.Model) -> np.ndarray:
    """What it gives for `feeds`."""
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled(feeds(model))[0])


def operations(model: openvino.Model) -> list[str]:
    """Its operations' kinds, sorted, constants left out."""
    kinds = (node.get_type_name() for node in model.get_ordered_ops())
    return sorted(kind for kind in kinds if kind != "Constant")
