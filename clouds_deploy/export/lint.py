"""Rules for a deployed graph: what some engine compiles wrongly, refuses or runs slowly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clouds_deploy.errors import CloudsError

FORBIDDEN = {
    "NonZero": "its output's shape depends on the data",
    "If": "control flow keeps engines from planning memory",
    "Loop": "control flow keeps engines from planning memory",
    "Scan": "control flow keeps engines from planning memory",
    "GridSample": "TensorRT 10.14 to 11.1 compile deformable attention's wrongly, without an error",
    "EmbeddingBag": "slow or unknown in every engine",
    "Unique": "its output's shape depends on the data",
    "Compress": "its output's shape depends on the data",
}
INTEGER_READERS = {
    "Reshape": (1,),
    "Expand": (1,),
    "Gather": (1,),
    "GatherElements": (1,),
    "Slice": (1, 2, 3, 4),
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "Split": (1,),
    "Tile": (1,),
    "Pad": (1, 3),
    "Resize": (3,),
    "ReduceL2": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceSum": (1,),
    "ConstantOfShape": (0,),
    "Range": (0, 1, 2),
}
"""Inputs that are 64-bit integers by the definition of the operation: shapes, axes and indices."""
INTEGER_MAKERS = ("Shape", "Concat", "Squeeze", "Unsqueeze", "Cast", "ArgMax", "Identity")
"""Operations that may output 64-bit integers: the batch size on its way into a shape, and the argmax."""


@dataclass(frozen=True)
class Finding:
    """One fault of a graph.

    Attributes:
        rule: Which rule was broken.
        node: Where; a node's name, or the graph.
        reason: What is wrong with it.
    """

    rule: str
    node: str
    reason: str


def lint(model: Any, free: Mapping[str, Sequence[int]] | None = None) -> list[Finding]:
    """Everything in a graph that breaks a rule.

    Args:
        model: An `onnx.ModelProto`.
        free: The axes that may be free, by the name of the input or output; for others it is the batch, and
            a segmenter's classes where they are an input.

    Returns:
        The faults, empty for a sound graph.
    """
    from onnx import TensorProto, shape_inference

    inferred = shape_inference.infer_shapes(model, data_prop=True)
    nodes = list(inferred.graph.node)
    found: list[Finding] = []
    types: dict[str, int] = {i.name: i.data_type for i in inferred.graph.initializer}
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        types[value.name] = value.type.tensor_type.elem_type
    for node in nodes:
        name = node.name or node.op_type
        if node.op_type in FORBIDDEN:
            found.append(Finding(f"no {node.op_type}", name, FORBIDDEN[node.op_type]))
        if node.domain not in ("", "ai.onnx"):
            found.append(Finding("default domain", name, f"{node.domain}.{node.op_type} is not ONNX's"))
        wide = any(types.get(output) == TensorProto.INT64 for output in node.output)
        if wide and node.op_type not in INTEGER_MAKERS:
            found.append(Finding("no 64-bit arithmetic", name, f"{node.op_type} computes 64-bit integers"))
        for index, source in enumerate(node.input):
            allowed = node.op_type in INTEGER_MAKERS or index in INTEGER_READERS.get(node.op_type, ())
            if source and types.get(source) == TensorProto.INT64 and not allowed:
                found.append(Finding("no 64-bit arithmetic", name, f"{node.op_type} reads 64-bit integers"))
    return found + _edges(inferred, nodes, types) + _sizes(inferred, free or {})


def _edges(model: Any, nodes: list[Any], types: Mapping[str, int]) -> list[Finding]:
    """Faults of uint8 inputs and outputs: a cast must be next to them, an output's from float32 or float16.

    TensorRT's operator page documents uint8 outputs of these casts; its headers exclude those of integers.
    """
    from onnx import TensorProto

    found = []
    inputs = {v.name for v in model.graph.input if v.type.tensor_type.elem_type == TensorProto.UINT8}
    if inputs and (not nodes or nodes[0].op_type != "Cast"):
        first = nodes[0].op_type if nodes else "nothing"
        found.append(Finding("cast first", "graph", f"the first node is {first}, not Cast"))
    found += [
        Finding("cast first", node.name, f"{node.op_type} reads the uint8 input itself")
        for node in nodes
        if node.op_type != "Cast" and inputs & set(node.input)
    ]
    makers = {output: node for node in nodes for output in node.output}
    floats = TensorProto.FLOAT, TensorProto.FLOAT16
    for value in model.graph.output:
        maker = makers.get(value.name)
        wide = value.type.tensor_type.elem_type == TensorProto.UINT8
        if wide and (maker is None or maker.op_type != "Cast"):
            what = maker.op_type if maker is not None else "an input"
            found.append(Finding("cast last", value.name, f"it comes from {what}, not Cast"))
        elif wide and maker is not None and types.get(maker.input[0]) not in floats:
            kind = TensorProto.DataType.Name(types.get(maker.input[0], TensorProto.UNDEFINED)).lower()
            reason = f"it is cast from {kind}, not from float32 or float16"
            found.append(Finding("cast last", value.name, reason))
    return found


def _sizes(model: Any, allowed: Mapping[str, Sequence[int]]) -> list[Finding]:
    """Faults of free axes and of names: only the batch, and classes that are an input, may be free."""
    from clouds_deploy.models.clouds.names import SCORES, SHARE, VOCABULARY

    found = []
    named = any(value.name == VOCABULARY for value in model.graph.input)
    classes = {VOCABULARY: [0, 1], SHARE: [0], SCORES: [0, 1]} if named else {}
    for value in [*model.graph.input, *model.graph.output]:
        dims = value.type.tensor_type.shape.dim
        free = [index for index, dim in enumerate(dims) if not dim.HasField("dim_value")]
        wanted = list(allowed.get(value.name, classes.get(value.name, [0])))
        if free != wanted:
            found.append(
                Finding(
                    "static sizes", value.name, f"axes {free} are free; only {wanted} may be (0: the batch)"
                )
            )
    names = Counter(node.name for node in model.graph.node)
    found += [Finding("unique names", n, f"{c} nodes have it") for n, c in names.items() if n and c > 1]
    return found


def require_clean(model: Any, free: Mapping[str, Sequence[int]] | None = None) -> None:
    """Refuses a graph that breaks a rule; arguments as for `lint`.

    Raises:
        CloudsError: There are any; exit code 1, the first ones named.
    """
    found = lint(model, free)
    if found:
        shown = "; ".join(f"{f.node}: {f.reason} ({f.rule})" for f in found[:5])
        raise CloudsError(
            f"the graph breaks {len(found)} rules: {shown}",
            "change the model so that it exports without them; clouds_deploy/export/lint.py has the reasons",
            exit_code=1,
        )
