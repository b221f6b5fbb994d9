"""Exact rewrites of a traced graph: what is known before it runs is not computed while it runs.

With a dynamic batch the exporter computes every reshape target at run time, although all of it but the batch
size is known. Engines then carry hundreds of integer operations on shapes, and some of them (TensorRT) plan
memory worse for it. Every rule here keeps the numbers bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

Dims = list[int | None]
"""A shape held in a tensor; None is a size that is known only when the graph runs."""


def simplify(model: ir.Model) -> None:
    """Applies all rules until none applies, then removes unused nodes.

    Args:
        model: The exporter's model; changed in place.
    """
    _lift(model)
    common.ShapeInferencePass()(model)
    _read_shapes_behind_cast(model.graph)
    changed = True
    while changed:
        changed = False
        for node in list(model.graph):
            rule = _RULES.get(node.op_type)
            if rule is not None and rule(model.graph, node):
                changed = True
        clean(model)


def clean(model: ir.Model) -> None:
    """Removes unused nodes and constants, merges equal ones, sorts, and puts the input's cast first."""
    common.RemoveUnusedNodesPass()(model)
    common.IdentityEliminationPass()(model)
    common.CommonSubexpressionEliminationPass()(model)
    _lift(model)
    common.DeduplicateInitializersPass(size_limit=1 << 40)(model)
    common.RemoveUnusedNodesPass()(model)
    model.graph.sort()
    head = next((n for n in model.graph if n.op_type == "Cast" and n.inputs[0] in model.graph.inputs), None)
    first = next(iter(model.graph))
    if head is not None and head is not first:
        model.graph.remove(head)
        model.graph.insert_before(first, head)


def _lift(model: ir.Model) -> None:
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _replace(old: ir.Value, new: ir.Value) -> bool:
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    return True


def _constant(graph: ir.Graph, array: np.ndarray) -> ir.Value:
    """Adds an initializer whose name contains its value."""
    text = "x".join(str(v).replace("-", "m").replace(".", "p") for v in array.flatten().tolist())
    name = f"const_{array.dtype}_{text}"
    if name in graph.initializers:
        return graph.initializers[name]
    value = ir.Value(
        name=name,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
        const_value=ir.Tensor(array, name=name),
    )
    graph.register_initializer(value)
    return value


def _array(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _shape(value: ir.Value) -> Dims | None:
    return None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]


def _attribute(node: ir.Node, name: str, default: int) -> int:
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.as_int()


def known_dims(value: ir.Value | None) -> Dims | None:
    """Values of a 1-D (or scalar) integer tensor of sizes, as far as they are known without running.

    Returns:
        Its elements, None for each that depends on the run; None when even their number is unknown.
    """
    if value is None:
        return None
    array = _array(value)
    if array is not None:
        return [int(v) for v in array.flatten()] if array.ndim <= 1 and array.dtype.kind == "i" else None
    node = value.producer()
    if node is None:
        return None
    if node.op_type == "Shape" and node.inputs[0] is not None:
        dims = _shape(node.inputs[0])
        if dims is None:
            return None
        return dims[_attribute(node, "start", 0) : _attribute(node, "end", len(dims))]
    if node.op_type == "Concat":
        parts = [known_dims(v) for v in node.inputs]
        return None if any(p is None for p in parts) else [d for p in parts if p is not None for d in p]
    if node.op_type in ("Squeeze", "Unsqueeze", "Cast", "Identity"):
        return known_dims(node.inputs[0])
    if node.op_type == "Slice" and len(node.inputs) == 3:
        dims, start, end = known_dims(node.inputs[0]), _array(node.inputs[1]), _array(node.inputs[2])
        if dims is not None and start is not None and end is not None:
            return dims[int(start.item()) : int(end.item())]
    return None


def _read_shapes_behind_cast(graph: ir.Graph) -> None:
    """Makes the cast the only reader of the input: TensorRT takes uint8 only next to a cast."""
    for value in graph.inputs:
        cast = next((n for n, _ in value.uses() if n.op_type == "Cast"), None)
        if cast is None:
            continue
        for node, index in list(value.uses()):
            if node is not cast:
                node.replace_input_with(index, cast.outputs[0])


def _reshape(graph: ir.Graph, node: ir.Node) -> bool:
    """Makes a reshape's target a constant; removes a reshape to the shape that is there already."""
    data, target = node.inputs[0], node.inputs[1]
    if data is None or target is None:
        return False
    before, after = _shape(data), _shape(node.outputs[0])
    if before is not None and before == after and before.count(None) <= 1:
        return _replace(node.outputs[0], data)
    if _array(target) is None:
        dims = known_dims(target)
        if dims is None or dims.count(None) + dims.count(-1) > 1:
            dims = _copied_sizes(data, node.outputs[0])
            if dims is not None and 0 in dims:
                node.attributes["allowzero"] = ir.AttrInt64("allowzero", 0)
        elif 0 in dims:
            return False
        if dims is None or dims.count(None) + dims.count(-1) > 1:
            return False
        wanted = np.array([-1 if d is None else d for d in dims], np.int64)
        node.replace_input_with(1, _constant(graph, wanted))
        if 0 not in dims:
            node.outputs[0].shape = ir.Shape(
                [after[i] if after and d is None else d for i, d in enumerate(dims)]
            )
        return True
    return _transposing_reshapes(node)


def _copied_sizes(data: ir.Value, result: ir.Value) -> Dims | None:
    """Sizes of a reshape's output, with 0 (copy) for one that its input has in the same place.

    The exporter names free sizes, sums and products of them too, so that equal names are equal sizes.
    """
    if data.shape is None or result.shape is None:
        return None
    return [
        size
        if isinstance(size, int)
        else 0
        if i < len(data.shape) and _same_size(data.shape[i], size)
        else None
        for i, size in enumerate(result.shape)
    ]


def _same_size(one: int | ir.SymbolicDim, other: int | ir.SymbolicDim) -> bool:
    if isinstance(one, int) or isinstance(other, int):
        return one == other
    return one.value is not None and one.value == other.value


def _transposing_reshapes(node: ir.Node) -> bool:
    """Replaces reshape, transpose, reshape that swap the last two axes by one transpose."""
    data = node.inputs[0]
    middle = None if data is None else data.producer()
    if middle is None or middle.op_type != "Transpose" or middle.inputs[0] is None:
        return False
    first = middle.inputs[0].producer()
    if first is None or first.op_type != "Reshape" or first.inputs[0] is None:
        return False
    source = first.inputs[0]
    outer, flat, result = _shape(source), known_dims(first.inputs[1]), known_dims(node.inputs[1])
    if outer is None or flat is None or result is None or not len(outer) == len(result) > len(flat) == 3:
        return False
    rows, columns = outer[-2:]
    swapped = list(middle.attributes["perm"].as_ints()) == [0, 2, 1]
    known = rows is not None and columns is not None
    same_lead = [-1 if d is None else d for d in outer[1:-2]] == result[1:-2]
    sizes = flat[1:] == [rows, columns] and result[-2:] == [columns, rows]
    if not (swapped and known and same_lead and sizes):
        return False
    axes = [*range(len(outer) - 2), len(outer) - 1, len(outer) - 2]
    new = ir.node("Transpose", [source], attributes={"perm": axes})
    _insert(node, new)
    return True


def _insert(old: ir.Node, new: ir.Node) -> None:
    """Replaces a node of one output by another; name and shape of the output stay."""
    graph = old.graph
    assert graph is not None
    graph.insert_before(old, new)
    new.outputs[0].shape, new.outputs[0].type = old.outputs[0].shape, old.outputs[0].type
    new.outputs[0].name = f"{old.outputs[0].name}_merged"
    new.name = f"{old.name}_merged"
    new.metadata_props.update(old.metadata_props)
    _replace(old.outputs[0], new.outputs[0])


def _transpose(graph: ir.Graph, node: ir.Node) -> bool:
    """Merges two transposes in a row; removes one that moves nothing."""
    moved = list(node.attributes["perm"].as_ints())
    if moved == sorted(moved) and node.inputs[0] is not None:
        return _replace(node.outputs[0], node.inputs[0])
    first = None if node.inputs[0] is None else node.inputs[0].producer()
    if first is None or first.op_type != "Transpose" or first.inputs[0] is None:
        return False
    inner, outer = first.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
    new = ir.node("Transpose", [first.inputs[0]], attributes={"perm": [inner[axis] for axis in outer]})
    _insert(node, new)
    return True


def _resize(graph: ir.Graph, node: ir.Node) -> bool:
    """Resizes by a constant scale instead of a computed size; removes a scale of one."""
    data, sizes = node.inputs[0], node.inputs[3] if len(node.inputs) > 3 else None
    before, after = None if data is None else _shape(data), known_dims(sizes)
    if before is None or after is None or len(after) != 4 or None in before[1:] or None in after[1:]:
        return False
    ratios = [1.0, *(float(a or 0) / float(b or 1) for a, b in zip(after[1:], before[1:], strict=True))]
    assert data is not None
    if all(r == 1.0 for r in ratios):
        return _replace(node.outputs[0], data)
    if not all(math.log2(r).is_integer() for r in ratios):
        return False  # a rounded scale could mean another size
    node.replace_input_with(2, _constant(graph, np.array(ratios, np.float32)))
    node.resize_inputs(3)
    return True


def _where(graph: ir.Graph, node: ir.Node) -> bool:
    """Removes the exporter's guard against fully masked rows: this network unmasks such rows itself.

    The guard could only ever hide a NaN that PyTorch would have shown.
    """
    condition, kept = node.inputs[0], node.inputs[2]
    test = None if condition is None else condition.producer()
    source = None if kept is None else kept.producer()
    if test is None or source is None or kept is None:
        return False
    if test.op_type != "IsNaN" or test.inputs[0] is not kept or source.op_type != "Softmax":
        return False
    return _replace(node.outputs[0], kept)


def _gather(graph: ir.Graph, node: ir.Node) -> bool:
    """Gathers by the 32-bit indices themselves, without a cast to 64 bits."""
    cast = None if node.inputs[1] is None else node.inputs[1].producer()
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return False
    if cast.inputs[0].dtype != ir.DataType.INT32:
        return False
    node.replace_input_with(1, cast.inputs[0])
    return True


_RULES: dict[str, Callable[[ir.Graph, ir.Node], bool]] = {
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Resize": _resize,
    "Where": _where,
    "Gather": _gather,
}
