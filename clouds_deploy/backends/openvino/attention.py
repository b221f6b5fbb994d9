"""Attention with a bias made of rows and columns, cut into parts that stay in a processor's cache.

A vision transformer with relative positions adds a bias (heads, N, M) to its scores, the sum of one score for
each row and one for each column of keys (`models.sam.vit_encoder`). For an image of 1024 x 1024 that is 805
MB, which OpenVINO writes out and reads again. Head by head and a few queries at a time it stays in the cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LARGE = 2**26
"""Bytes of an image's bias in float32 from which on it is cut."""
_PART = 2**24
"""Bytes of a part's bias in float32, at most."""


class _Attention(NamedTuple):
    """softmax(query @ key + rows + columns) @ value: the operands, and how many heads, queries and keys."""

    query: Any
    key: Any
    rows: Any
    columns: Any
    value: Any
    heads: int
    queries: int
    keys: int


def cut_attention(model: Any, large: int = LARGE, part: int = _PART) -> int:
    """Cuts large attention with relative positions by heads and by queries.

    Args:
        model: An `openvino.Model` of fixed sizes; changed in place, its numbers not at all.
        large: Bytes of an image's bias in float32 from which on it is cut.
        part: Bytes of a part's bias in float32, at most.

    Returns:
        How many attentions were cut.
    """
    count = 0
    for product in model.get_ordered_ops():
        found = _attention(product)
        if found is None or 4 * found.heads * found.queries * found.keys < large:
            continue
        product.output(0).replace(_in_parts(found, part).output(0))
        count += 1
    if count:
        model.validate_nodes_and_infer_types()
    return count


def _in_parts(whole: _Attention, part: int) -> Any:
    from openvino import opset13 as op

    def split(value: Any, axis: int, parts: int) -> list[Any]:
        return list(op.split(value, op.constant(np.int64(axis)), parts).outputs())

    limit = max(1, part // (4 * whole.keys))
    blocks = next(
        n for n in range(1, whole.queries + 1) if whole.queries % n == 0 and whole.queries // n <= limit
    )
    shape = op.constant(np.array([-1, 1, whole.queries // blocks, whole.keys], np.int64))
    heads = []
    for query, key, rows, columns, value in zip(*(split(v, 1, whole.heads) for v in whole[:5]), strict=True):
        seen = []
        for q, r, c in zip(*(split(v, 2, blocks) for v in (query, rows, columns)), strict=True):
            bias = op.reshape(op.add(r, c), shape, False)
            scores = op.add(op.matmul(q, key, False, False), bias)
            seen.append(op.matmul(op.softmax(scores, -1), value, False, False))
        heads.append(op.concat(seen, 2) if blocks > 1 else seen[0])
    return op.concat(heads, 1)


def _attention(product: Any) -> _Attention | None:
    """The operands where a node is the product with the values; None for any other."""
    if not _is_plain_product(product):
        return None
    shares, value = product.input_value(0).get_node(), product.input_value(1)
    if shares.get_type_name() != "Softmax" or shares.get_attributes()["axis"] not in (-1, 3):
        return None
    scores = shares.input_value(0).get_node()
    if scores.get_type_name() != "Add":
        return None
    similar, bias = (scores.input_value(i).get_node() for i in (0, 1))
    if not _is_plain_product(similar) or bias.get_type_name() != "Reshape":
        return None
    both = bias.input_value(0).get_node()
    if both.get_type_name() != "Add":
        return None
    operands = [*(similar.input_value(i) for i in (0, 1)), *(both.input_value(i) for i in (0, 1)), value]
    if any(v.get_partial_shape().is_dynamic for v in (*operands, bias.output(0))):
        return None
    shapes = [list(v.get_shape()) for v in (*operands, bias.output(0))]
    if [len(shape) for shape in shapes] != [4, 4, 5, 5, 4, 4]:
        return None
    query, key, rows, columns, value = operands
    batch, heads, queries, keys = shapes[-1]
    if any(list(v.get_shape())[:3] != [batch, heads, queries] for v in (query, rows, columns)):
        return None
    if list(key.get_shape())[:2] != [batch, heads] or list(value.get_shape())[:3] != [batch, heads, keys]:
        return None
    return _Attention(query, key, rows, columns, value, heads, queries, keys)


def _is_plain_product(node: Any) -> bool:
    return node.get_type_name() == "MatMul" and not any(node.get_attributes().values())
