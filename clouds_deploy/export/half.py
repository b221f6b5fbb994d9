"""FP16 and BF16 graphs: every tensor is typed, but for islands that stay in float32.

TensorRT 11 and TensorRT-RTX have no switch for either: they do what the graph's types say. So the types are
written here, once, and the same file serves every engine. A pass of our own, because it is deterministic,
needs a second or two, and knows this project's node names; why no ready one is used:
docs/explanation/decisions/0006-fp16-pass.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError, install
from clouds_deploy.export.simplify import clean
from clouds_deploy.telemetry import load_onnxruntime

HEADROOM = 8.0
"""Values may be this many times larger on other images than on the samples before they overflow."""
ROUTINE = ("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Slice", "Split", "Identity", "Flatten")
"""Operations that only move numbers: they keep their input's type."""
UNTYPED = {"Resize": (1, 2, 3), "Shape": (0,), "Cast": (0,), "Size": (0,)}
"""Inputs that may be float32 whatever the other inputs' type."""


@dataclass(frozen=True)
class Half:
    """A floating-point type of two bytes.

    Attributes:
        name: What bundles and options call it.
        type: What ONNX calls it.
        largest: Its largest finite number.
        smallest: Its smallest number above zero.
        opset: The first opset whose convolutions take it; 18 is what is exported.
    """

    name: str
    type: ir.DataType
    largest: float
    smallest: float
    opset: int = 18

    @property
    def word(self) -> str:
        """Its name in ONNX, in lower case."""
        return self.type.name.lower()


FP16 = Half("fp16", ir.DataType.FLOAT16, 65504.0, 2.0**-24)
BF16 = Half("bf16", ir.DataType.BFLOAT16, 3.3895313892515355e38, 2.0**-133, 22)
HALVES = {half.name: half for half in (FP16, BF16)}


@dataclass(frozen=True)
class Typed:
    """A graph in half precision.

    Attributes:
        model: The graph; inputs and outputs are as they were.
        half: Nodes that compute in the type of two bytes.
        single: Nodes that compute in float32.
        casts: Casts put between the two.
        reasons: For each reason to stay in float32, an island's regex or a range, the nodes it kept.
        islands: The nodes kept in float32, by name, with the reason of each.
        kind: The type of two bytes.
    """

    model: ir.Model
    half: int
    single: int
    casts: int
    reasons: dict[str, int]
    islands: dict[str, str] = field(repr=False)
    kind: Half = FP16

    def to_json(self) -> dict[str, Any]:
        """The counts, for manifests."""
        return {"half": self.half, "single": self.single, "casts": self.casts, "reasons": self.reasons}


def to_half(
    model: ir.Model,
    islands: Sequence[str],
    samples: Sequence[Mapping[str, Array]] = (),
    kind: Half = FP16,
) -> Typed:
    """Converts a graph to float16 or bfloat16, but for islands of float32.

    A node stays in float32 when an island's regex is found in `<node name> <operation>`; when on the samples
    one of its inputs or outputs comes within a factor of `HEADROOM` of the type's largest number; or when it
    reads a constant that the type would round to zero, such as the epsilon of a division.

    Args:
        model: A float32 graph; not changed.
        islands: Regexes of nodes that have to stay in float32.
        samples: Inputs by name, to run the graph on for its ranges. Without any, only constants are looked
            at.
        kind: The type of two bytes.

    Returns:
        The typed graph. Inputs and outputs keep their types.

    Raises:
        CloudsError: A pattern is not a regex, or onnxruntime, which runs the samples, is not installed.
    """
    patterns = [_compile(island) for island in islands]
    peaks = peak_values(model, samples) if samples else {}
    typed = _raised(model.clone(), kind.opset)
    _know_types(typed)
    reasons = {node.name or "": _reason(node, patterns, peaks, kind) for node in typed.graph}
    kept = {name: reason for name, reason in reasons.items() if reason}
    writer = _Writer(typed.graph, set(kept), kind)
    for node in list(typed.graph):
        writer.type_node(node)
    writer.type_outputs()
    clean(typed)
    _know_types(typed)
    counts = dict(Counter(kept.values()).most_common())
    return Typed(typed, writer.half, writer.single, len(writer.casts), counts, kept, kind)


def _raised(model: ir.Model, opset: int) -> ir.Model:
    """The graph at least at an opset."""
    if model.graph.opset_imports[""] < opset:
        from onnxscript import version_converter

        version_converter.convert_version(model, opset)
    return model


def _compile(island: str) -> re.Pattern[str]:
    try:
        return re.compile(island)
    except re.error as error:
        raise CloudsError(
            f"the FP32 island `{island}` is not a regex: {error}", "correct it in the export recipe"
        ) from error


def _know_types(model: ir.Model) -> None:
    """Infers the type of every value."""
    from onnx_ir.passes import common

    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
    common.ShapeInferencePass()(model)


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _floats(node: ir.Node) -> list[tuple[int, ir.Value]]:
    """The inputs of a node that must have its type, with their places."""
    free = UNTYPED.get(node.op_type, ())
    return [(i, v) for i, v in enumerate(node.inputs) if v is not None and _is_float(v) and i not in free]


def _reason(
    node: ir.Node, patterns: Sequence[re.Pattern[str]], peaks: Mapping[str, float], kind: Half
) -> str:
    """Why a node has to stay in float32; empty when it need not."""
    inputs = _floats(node)
    if not inputs and not any(_is_float(v) for v in node.outputs):
        return ""
    for pattern in patterns:
        if pattern.search(f"{node.name} {node.op_type}"):
            return pattern.pattern
    names = [v.name or "" for v in (*(v for _, v in inputs), *node.outputs)]
    if any(peaks.get(name, 0.0) * HEADROOM > kind.largest for name in names):
        return "range"
    for _, value in inputs:
        array = None if value.const_value is None else value.const_value.numpy()
        if array is not None and _too_small_or_large(array, kind):
            return "constant"
    if node.op_type == "ConstantOfShape":
        return "constant"
    return ""


def _too_small_or_large(array: np.ndarray, kind: Half) -> bool:
    """Whether a constant overflows, or is an epsilon that becomes zero."""
    sizes = np.abs(array[np.isfinite(array)])
    if sizes.size == 0:
        return False
    largest = float(sizes.max())
    return largest > kind.largest or (array.size == 1 and 0 < largest < kind.smallest)


def _only_for_bytes(value: ir.Value) -> bool:
    """Whether a value is only cast to uint8, which TensorRT does not document for bfloat16."""
    readers = [node for node, _ in value.uses()]
    return bool(readers) and all(
        node.op_type == "Cast" and node.outputs[0].dtype == ir.DataType.UINT8 for node in readers
    )


class _Writer:
    """Writes types into a graph, node by node in order, and casts where two types meet."""

    def __init__(self, graph: ir.Graph, kept: set[str], kind: Half) -> None:
        self.graph, self.kept, self.kind = graph, kept, kind
        self.half = self.single = 0
        self.casts: dict[tuple[str, ir.DataType], ir.Value] = {}
        self.constants: dict[str, ir.Value] = {}

    def type_node(self, node: ir.Node) -> None:
        inputs = _floats(node)
        produces = [value for value in node.outputs if _is_float(value)]
        if not inputs and not produces and not any(is_half(v) for v in node.inputs):
            return
        wanted = self._choose(node)
        if wanted == self.kind.type:
            self.half += 1
        else:
            self.single += 1
        free = UNTYPED.get(node.op_type, ())
        for index, value in enumerate(node.inputs):
            if value is not None and index not in free and value.dtype in _BOTH and value.dtype != wanted:
                node.replace_input_with(index, self._as(value, wanted, node))
        if wanted == self.kind.type:
            for value in produces:
                value.type = ir.TensorType(wanted)  # a new one: clones share theirs
            if node.op_type == "Cast" and produces:
                node.attributes["to"] = ir.AttrInt64("to", wanted.value)

    def type_outputs(self) -> None:
        """Casts the graph's outputs back to float32."""
        for index, value in enumerate(self.graph.outputs):
            if not is_half(value):
                continue
            name, node = value.name, value.producer()
            assert node is not None
            value.name = f"{name}_{self.kind.word}"
            cast = cast_node(value, ir.DataType.FLOAT, name or "")
            self.graph.insert_after(node, cast)
            self.graph.outputs[index] = cast.outputs[0]
            self.casts[value.name, ir.DataType.FLOAT] = cast.outputs[0]

    def _choose(self, node: ir.Node) -> ir.DataType:
        if node.name in self.kept:
            return ir.DataType.FLOAT
        given = [v for i, v in enumerate(node.inputs) if i not in UNTYPED.get(node.op_type, ())]
        typeless = not any(v is not None and v.dtype in _BOTH for v in given)
        if typeless and (_only_for(self.kept, node.outputs[0]) or _only_for_bytes(node.outputs[0])):
            return ir.DataType.FLOAT  # numbers made for an island, or to become bytes, are made in its type
        first = node.inputs[0] if node.inputs else None
        if (
            node.op_type in ROUTINE
            and first is not None
            and first.dtype in _BOTH
            and first.const_value is None
        ):
            return first.dtype or ir.DataType.FLOAT
        return self.kind.type

    def _as(self, value: ir.Value, wanted: ir.DataType, reader: ir.Node) -> ir.Value:
        if value.const_value is not None:
            return self._constant(value)
        key = value.name or "", wanted
        if key not in self.casts:
            cast = cast_node(value, wanted, f"{value.name}_{wanted.name.lower()}")
            maker = value.producer()
            if maker is None:
                self.graph.insert_before(reader, cast)
            else:
                self.graph.insert_after(maker, cast)
            self.casts[key] = cast.outputs[0]
        return self.casts[key]

    def _constant(self, value: ir.Value) -> ir.Value:
        """A constant in the type of two bytes; finite values stay finite."""
        name = f"{value.name}_{self.kind.word}"
        if name not in self.constants:
            assert value.const_value is not None
            array = value.const_value.numpy()
            most = self.kind.largest
            half = np.where(np.isfinite(array), np.clip(array, -most, most), array)
            tensor = ir.Tensor(half.astype(self.kind.type.numpy()), name=name)
            made = ir.Value(
                name=name, shape=tensor.shape, type=ir.TensorType(self.kind.type), const_value=tensor
            )
            self.graph.register_initializer(made)
            self.constants[name] = made
        return self.constants[name]


_HALVES = tuple(half.type for half in HALVES.values())
_BOTH = (ir.DataType.FLOAT, *_HALVES)


def is_half(value: ir.Value | None) -> bool:
    """Whether a value is of a type of two bytes."""
    return value is not None and value.dtype in _HALVES


def _only_for(kept: set[str], value: ir.Value) -> bool:
    """Whether only float32 nodes read a value, directly or after it was moved."""
    readers = [node for node, _ in value.uses()]
    return bool(readers) and all(
        reader.name in kept or (reader.op_type in ROUTINE and _only_for(kept, reader.outputs[0]))
        for reader in readers
    )


def cast_node(value: ir.Value, wanted: ir.DataType, name: str) -> ir.Node:
    """A node that casts a value; the node and its output are named after `name`."""
    cast = ir.node("Cast", [value], attributes={"to": wanted.value}, name=f"cast_{name}")
    out = cast.outputs[0]
    out.name, out.shape, out.type = name, value.shape, ir.TensorType(wanted)
    return cast


def peak_values(model: ir.Model, samples: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """Largest absolute value of every tensor of a graph on samples.

    Args:
        model: A float32 graph; not changed.
        samples: Inputs by name.

    Returns:
        By the tensor's name its largest absolute value. Tensors that hold an infinity are left out: a mask's
        infinity is meant, and what was masked is looked at where it was made.

    Raises:
        CloudsError: onnxruntime is not installed.
    """
    try:
        onnxruntime = load_onnxruntime()
    except ImportError as error:
        raise CloudsError(
            "onnxruntime, which finds the values that overflow, is not installed",
            install("cpu"),
        ) from error
    probe = model.clone()
    _know_types(probe)
    probe.graph.outputs.clear()
    probed: list[str] = []
    for node in list(probe.graph):
        for value in node.outputs:
            if not _is_float(value) or value.name is None:
                continue
            size = ir.node("Abs", [value], name=f"probe_abs_{len(probed)}")
            peak = ir.node(
                "ReduceMax", [size.outputs[0]], attributes={"keepdims": 0}, name=f"probe_{len(probed)}"
            )
            peak.outputs[0].name = f"probe_{len(probed)}"
            peak.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            peak.outputs[0].shape = ir.Shape([])
            probe.graph.insert_after(node, [size, peak])
            probe.graph.outputs.append(peak.outputs[0])
            probed.append(value.name)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    # a tensor is let go of once it was looked at; in the usual order every one stays to the end
    settings.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    peaks: dict[str, float] = {}
    with Scratch() as folder:
        path = folder / "probe.onnx"
        ir.save(probe, path, external_data="probe.onnx.data")
        session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
        wanted = {value.name for value in session.get_inputs()}
        for sample in samples:
            found = session.run(None, {name: array for name, array in sample.items() if name in wanted})
            for name, value in zip(probed, found, strict=True):
                peaks[name] = max(peaks.get(name, 0.0), float(value))
    return {name: peak for name, peak in peaks.items() if np.isfinite(peak)}


def rounded(model: ir.Model) -> ir.Model:
    """A float32 graph that rounds every half-precision tensor explicitly.

    Backends on a CPU compute an FP16 graph in float32 from its rounded weights and round nothing between two
    nodes; their agreement says little of a GPU's. The graph that this gives rounds every tensor of two bytes
    and computes in float32, as tensor cores do with float32 sums.

    Args:
        model: What `to_half` made; not changed.

    Returns:
        The graph; every result is cast to two bytes and back.
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
