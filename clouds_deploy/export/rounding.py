"""The rounding of an FP16 or BF16 graph, spelled out as casts."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from clouds_deploy.export.half import ROUTINE, cast_node, is_half


def rounded(model: ir.Model) -> ir.Model:
    """Spell the rounding to two bytes out, for runtimes that leave it out, or that lack the type.

    Runtimes on a CPU compute an FP16 graph in float32 from its rounded weights and round nothing between two
    nodes; their agreement says little of a GPU's. The graph that this gives rounds every tensor of two bytes
    and computes in float32, as tensor cores do with float32 sums.

    Args:
        model: What `to_half` made; not changed.

    Returns:
        A float32 graph that casts every result there and back.
    """
    copy = model.clone()
    graph = copy.graph
    for value in list(graph.initializers.values()):
        if value.const_value is not None and is_half(value):
            value.const_value = ir.Tensor(value.const_value.numpy().astype(np.float32), name=value.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
    for node in list(graph):
        for value in node.outputs:
            if not is_half(value):
                continue
            kind = value.dtype or ir.DataType.FLOAT16
            value.type = ir.TensorType(ir.DataType.FLOAT)
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT.value)
            if node.op_type in ROUTINE:
                continue
            down = cast_node(value, kind, f"{value.name}_rounded")
            up = cast_node(down.outputs[0], ir.DataType.FLOAT, f"{value.name}_restored")
            ir.convenience.replace_all_uses_with(value, up.outputs[0])
            down.replace_input_with(0, value)
            graph.insert_after(node, [down, up])
    return copy
