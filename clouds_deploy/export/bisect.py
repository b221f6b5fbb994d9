"""Finds where a graph goes wrong: the first operation on which two runs disagree, cut out to reproduce it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import atomic_directory, write_json
from clouds_deploy.artifacts.claims import Scratch, free_name
from clouds_deploy.backends.backends import open_graph
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError

GRAPH = "region.onnx"
ARRAYS = "region.npz"
FINDING = "finding.json"
FLOAT, BFLOAT16 = 1, 16
FLOATS = (FLOAT, 10, BFLOAT16)
"""ONNX's type numbers of float, float16 and bfloat16; numpy lacks the last, it is read as float."""


@dataclass(frozen=True)
class Region:
    """The first operation whose output is wrong although its inputs are right.

    Attributes:
        node: Its name.
        operation: What it does.
        output: The wrong tensor.
        error: Relative L2 norm of the difference there.
        inputs_error: The largest one of its inputs.
        tensors: How many tensors were compared.
        folder: Where the reproducer lies.
    """

    node: str
    operation: str
    output: str
    error: float
    inputs_error: float
    tensors: int
    folder: str

    def describe(self) -> str:
        """The finding in a sentence."""
        return (
            f"first to go wrong is `{self.node}` ({self.operation}): relative error {self.error:.1e} from "
            f"inputs right to {self.inputs_error:.1e}; a graph of it alone, with its numbers: {self.folder}"
        )


def bisect(
    right: tuple[Path, str],
    wrong: tuple[Path, str],
    feeds: Mapping[str, Array],
    out: Path,
    *,
    tolerance: float = 1e-3,
) -> Region | None:
    """Compares two graphs, tensor by tensor, and cuts out the first operation that goes wrong.

    Args:
        right: A graph and a backend that computes it rightly.
        wrong: The same graph, or one typed otherwise with the same names, and the backend in doubt.
        feeds: Inputs by name.
        out: The folder to make: the operation as a graph, its inputs, what it gave and what is right.
        tolerance: Relative L2 error from which a tensor counts as wrong.

    Returns:
        The operation; None where no tensor is wrong: then the graph itself is not the network, or many small
        errors add up.

    Raises:
        CloudsError: A backend is not installed or refuses a graph; `out` exists.
    """
    import onnx

    if out.exists():
        raise CloudsError(f"{out} exists", "move it away")
    good, order = _all_tensors(*right, feeds)
    bad, _ = _all_tensors(*wrong, feeds)
    errors = {name: _apart(bad[name], good[name]) for name in order if name in bad}
    model = onnx.load(str(wrong[0]))
    constants = {value.name for value in model.graph.initializer}
    known = dict.fromkeys(feeds, 0.0) | errors
    for node in model.graph.node:  # what only one graph has, such as a cast, hands on what it was given
        handed = max((known[name] for name in node.input if name in known), default=0.0)
        known |= {name: handed for name in node.output if name not in known}
    suspects = _behind(model, known, tolerance)
    for node in model.graph.node:
        off = [name for name in node.output if name in suspects and name in errors]
        sources = [known[name] for name in node.input if name in known]
        if off and max(sources, default=0.0) <= tolerance:
            name = off[0]
            region = Region(
                node.name, node.op_type, name, errors[name], max(sources, default=0.0), len(errors), str(out)
            )
            values = {n: bad[n] if n in bad else feeds[n] for n in node.input if n in bad or n in feeds}
            with atomic_directory(out) as folder:
                wanted = {name: bad[name], f"{name} wanted": good[name]}
                _cut(model, node, _kinds(wrong[0]), constants, values, wanted, folder)
                write_json(folder / FINDING, asdict(region) | {"right": right[1], "wrong": wrong[1]})
            return region
    return None


def _behind(model: Any, errors: Mapping[str, float], tolerance: float) -> set[str]:
    """The wrong tensors that reach a wrong output through wrong tensors alone.

    Others do not matter: a coordinate just below a whole number may be rounded down in one graph and not
    in the other, and the interpolation that follows is right in both.
    """
    wrong = {name for name, error in errors.items() if error > tolerance}
    found = {value.name for value in model.graph.output} & wrong
    for node in reversed(model.graph.node):
        if found & set(node.output):
            found |= wrong & set(node.input)
    return found


def _all_tensors(graph: Path, engine: str, feeds: Mapping[str, Array]) -> tuple[dict[str, Array], list[str]]:
    """Runs a graph with every float tensor in it as an output."""
    import onnx
    from onnx import external_data_helper, helper

    model = _inferred(graph)
    external_data_helper.load_external_data_for_model(model, str(graph.parent))
    given = {value.name for value in model.graph.output}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    order, rounded, casts = [], {}, []
    for node in model.graph.node:
        for name in node.output:
            if kinds.get(name) in FLOATS and name not in given:
                seen, kind = name, kinds[name]
                if kind == BFLOAT16:
                    seen, kind = f"{name} in float", FLOAT
                    casts.append(helper.make_node("Cast", [name], [seen], to=FLOAT))
                    rounded[seen] = name
                model.graph.output.append(helper.make_tensor_value_info(seen, kind, None))
                order.append(name)
    model.graph.node.extend(casts)
    with Scratch() as folder:
        path = folder / "probe.onnx"
        onnx.save(model, str(path), save_as_external_data=True, location="probe.data")
        session = open_graph(path, engine)
        try:
            found = session.run({spec.name: feeds[spec.name] for spec in session.inputs})
        finally:
            session.close()
    found = {rounded.get(name, name): array for name, array in found.items()}
    return found, order + [name for name in given if found[name].dtype.kind == "f"]


def _inferred(graph: Path) -> Any:
    """A graph with the types and shapes of its tensors, without weights that lie in a file beside it.

    With those it may be larger than the 2 GiB that shape inference takes.
    """
    import onnx
    from onnx import shape_inference

    return shape_inference.infer_shapes(onnx.load(str(graph), load_external_data=False), data_prop=True)


def _kinds(graph: Path) -> dict[str, int]:
    """The type of every tensor that shape inference finds, as ONNX numbers it."""
    values = _inferred(graph).graph.value_info
    return {value.name: value.type.tensor_type.elem_type for value in values}


def _apart(found: Array, right: Array) -> float:
    a, b = found.astype(np.float64), right.astype(np.float64)
    same = np.isfinite(b)
    if a.shape != b.shape or not np.array_equal(same, np.isfinite(a)):
        return float("inf")
    norm = float(np.linalg.norm(b[same]))
    return float(np.linalg.norm(a[same] - b[same])) / max(norm, 1e-12) if same.any() else 0.0


def _cut(
    model: Any,
    node: Any,
    kinds: Mapping[str, int],
    constants: set[str],
    inputs: Mapping[str, Array],
    outputs: Mapping[str, Array],
    folder: Path,
) -> None:
    """Writes one operation as a graph, with the numbers that went in and came out."""
    import onnx
    from onnx import helper

    def described(name: str, array: Array) -> Any:
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
        )

    before: list[Any] = []
    after: list[Any] = []
    one = onnx.NodeProto()
    one.CopyFrom(node)
    for names, casts, to in ((one.input, before, BFLOAT16), (one.output, after, FLOAT)):
        for i, name in enumerate(names):
            if kinds.get(name) == BFLOAT16 and name in {**inputs, **outputs}:
                names[i] = f"{name} in bfloat16"
                ends = (name, names[i]) if to == BFLOAT16 else (names[i], name)
                casts.append(helper.make_node("Cast", ends[:1], ends[1:], to=to))
    weights = [tensor for tensor in model.graph.initializer if tensor.name in set(node.input) & constants]
    graph = helper.make_graph(
        [*before, one, *after],
        "region",
        [described(name, array) for name, array in inputs.items()],
        [described(name, array) for name, array in outputs.items() if not name.endswith(" wanted")],
        initializer=weights,
    )
    onnx.save(
        helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version),
        str(folder / GRAPH),
    )
    np.savez_compressed(folder / ARRAYS, **{**inputs, **outputs})  # type: ignore[arg-type]


def explain(engine: str, shipped: Path, original: Path, feeds: Mapping[str, Array], out: Path) -> str:
    """Where a graph that failed its gates goes wrong, in a sentence; leaves a reproducer beside `out`.

    Args:
        engine: The backend that failed.
        shipped: The graph that failed.
        original: The graph in float32; the same file where that is what failed.
        feeds: One image's inputs.
        out: The bundle that was not made; the reproducer is `<out>.failed`, or `<out>.failed-2` and so on.
    """
    folder = free_name(out.with_name(f"{out.name}.failed"))
    typed = shipped != original
    other = "onnxruntime" if typed or engine != "onnxruntime" else "openvino"
    try:
        found = bisect((original, other), (shipped, engine), feeds, folder, tolerance=0.02 if typed else 1e-3)
    except CloudsError as error:
        return f"where it goes wrong was not found: {error.message}"
    if found is None:
        with_what = "float32's" if typed else f"{other}'s"
        return (
            f"every tensor is like {with_what} on one image: the graph is not what PyTorch computes, or many "
            "small errors add up"
        )
    return found.describe()
