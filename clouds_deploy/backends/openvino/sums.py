"""Weighted sums of gathered rows as OpenVINO's own operation for them.

Deformable attention is exported as gathering rows and multiplying each group with its weights, which every
engine reads (`models.clouds.deformable_attention`). OpenVINO would write all gathered rows out before adding
them up; its EmbeddingBagPackedSum does both at once, but takes fixed sizes only and ONNX has nothing like it.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def sum_gathered_rows(model: Any) -> int:
    """Replaces weights (M, 1, K) times gathered rows (M, K, D) by sums of a table's rows.

    Args:
        model: An `openvino.Model` of fixed sizes; changed in place, its numbers to rounding only.

    Returns:
        How many products were replaced.
    """
    from openvino import opset13 as op

    count = 0
    for product in model.get_ordered_ops():
        found = _gathered(product)
        if found is None:
            continue
        table, index, weights = found
        groups = op.constant(np.array([-1, weights.get_partial_shape()[2].get_length()], np.int64))
        sums = op.embedding_bag_packed_sum(
            table, op.reshape(index, groups, False), op.reshape(weights, groups, False)
        )
        product.output(0).replace(op.unsqueeze(sums, op.constant(np.array([1], np.int64))).output(0))
        count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _gathered(product: Any) -> tuple[Any, Any, Any] | None:
    """Table (R, D), index (M * K) and weights (M, 1, K) of such a product; None of any other."""
    if product.get_type_name() != "MatMul" or any(product.get_attributes().values()):
        return None
    weights, rows = product.input_value(0), product.input_value(1).get_node()
    gather = rows.input_value(0).get_node() if rows.get_type_name() == "Reshape" else None
    if gather is None or gather.get_type_name() != "Gather":
        return None
    table, index = gather.input_value(0), gather.input_value(1)
    shapes = [value.get_partial_shape() for value in (table, index, weights, product.input_value(1))]
    if any(shape.is_dynamic for shape in shapes) or [len(shape) for shape in shapes] != [2, 1, 3, 3]:
        return None
    m, one, k = (d.get_length() for d in shapes[2])
    if one != 1 or [d.get_length() for d in shapes[3]] != [m, k, shapes[0][1].get_length()]:
        return None
    return table, index, weights
