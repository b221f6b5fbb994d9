"""Floating-point operations of a graph by type: the proof that an FP16 graph computes in FP16.

Engines that take the precision from the graph build FP32 engines from FP32 graphs without a word, so the
share is counted on the file itself, from the types that are inferred there, and not from what a pass meant to
do.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    import onnx_ir as ir

Shape = tuple[int, ...]
LARGEST_FOLDED = 2**20
"""Most elements of a constant that is computed beforehand to infer shapes."""


def flops_by_type(graph: Path, free: Mapping[str, int] | None = None, only: str = "") -> dict[str, int]:
    """Floating-point operations of matrix products and convolutions; a multiply-add counts as two.

    Args:
        graph: An ONNX file.
        free: The size of every free axis by its name; 1 for those it leaves out (one image, one prompt).
        only: A regex, searched in `<node name> <operation>`, of the nodes that count.

    Returns:
        The operations by the type they are done in, such as `float` and `float16`, ONNX's own names in lower
        case. A product of which one operand is float32 is one in float32; one of two that were INT8 until
        right before it is one in `int8`, as engines do it.

    Raises:
        CloudsError: The size or the type of a product cannot be inferred.
    """
    import onnx_ir as ir

    model = ir.load(graph)
    _fix_sizes(model, free or {})
    counted: dict[str, int] = {}
    for node in model.graph:
        count = _COUNTS.get(node.op_type)
        if count is None or not re.search(only, f"{node.name} {node.op_type}"):
            continue
        operands = [value for value in (*node.inputs[:2], node.outputs[0]) if value is not None]
        sizes = [_static(value) for value in operands]
        kinds = [value.dtype for value in operands[:2]]
        if len(sizes) != 3 or None in sizes or None in kinds:
            raise CloudsError(
                f"{graph.name}: the size or the type of `{node.name}` ({node.op_type}) cannot be inferred",
                "report it with the recipe: its share of the work cannot be counted",
                exit_code=1,
            )
        left, right, out = (size for size in sizes if size is not None)
        kind = max((k for k in kinds if k is not None), key=lambda k: k.bitwidth)
        name = "int8" if all(_was_int8(value) for value in operands[:2]) else kind.name.lower()
        counted[name] = counted.get(name, 0) + count(node, left, right, out)
    return counted


def _was_int8(value: ir.Value) -> bool:
    import onnx_ir as ir

    maker = value.producer()
    source = maker.inputs[0] if maker is not None and maker.op_type == "DequantizeLinear" else None
    return source is not None and source.dtype == ir.DataType.INT8


def share(counted: Mapping[str, int], kind: str) -> float:
    """One type's share, 0..1, of all operations; 0 where there are none."""
    total = sum(counted.values())
    return counted.get(kind, 0) / total if total else 0.0


def _fix_sizes(model: ir.Model, free: Mapping[str, int]) -> None:
    """Sets the size of every free axis and infers all other sizes from them."""
    import onnx_ir as ir
    from onnxscript import optimizer

    from clouds_deploy.export.trace import quiet

    for value in model.graph.inputs:
        assert value.shape is not None
        value.shape = ir.Shape([d if isinstance(d, int) else free.get(str(d), 1) for d in value.shape])
    for node in model.graph:
        for value in node.outputs:
            value.shape = None
    with quiet():
        optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=LARGEST_FOLDED,
            output_size_limit=LARGEST_FOLDED,
        )


def _static(value: ir.Value) -> Shape | None:
    if value.shape is None or not value.shape.is_static():
        return None
    return tuple(int(d) for d in value.shape if isinstance(d, int))


def _matmul(_: ir.Node, left: Shape, right: Shape, out: Shape) -> int:
    return 2 * math.prod(out) * left[-1]


def _gemm(node: ir.Node, left: Shape, right: Shape, out: Shape) -> int:
    turned = node.attributes.get("transA")
    return 2 * math.prod(out) * left[0 if turned is not None and turned.as_int() else 1]


def _conv(_: ir.Node, left: Shape, right: Shape, out: Shape) -> int:
    return 2 * math.prod(out) * math.prod(right[1:])


def _conv_transpose(_: ir.Node, left: Shape, right: Shape, out: Shape) -> int:
    return 2 * math.prod(left) * math.prod(right[1:])


_COUNTS: dict[str, Callable[[ir.Node, Shape, Shape, Shape], int]] = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
}
