"""Tracing of PyTorch modules into ONNX graphs that every engine reads.

Opset 18 (LayerNormalization is one node, no engine lags behind it), a dynamic batch, fixed height and width,
deformable attention spelled out in gathers (see `models.clouds.deformable_attention`), quiet.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clouds_deploy.errors import CloudsError, first_line

if TYPE_CHECKING:
    import onnx_ir as ir
    from torch import Tensor, nn

    from clouds_deploy.models.clouds.scores import Inference
    from clouds_deploy.models.clouds.segmenter import Segmenter

M = TypeVar("M", bound="nn.Module")

OPSET = 18
LARGEST_BATCH = 1024
LARGEST_VOCABULARY = 255
LARGEST_SYNONYMS = 1024
LARGEST_FILE = 2 * 2**30 - 2**24
"""Most bytes of weights in a graph's file: protobuf ends at 2 GiB. Those of a larger graph go to a file of
their own, `<name>.onnx.data`."""


@dataclass(frozen=True)
class Exported:
    """A traced graph.

    Attributes:
        model: The graph, with `scores` among its outputs.
        raw_nodes: Nodes before simplification.
    """

    model: ir.Model
    raw_nodes: int


@contextlib.contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Keeps the exporter's output off the console; it is shown only when the export fails."""
    output = io.StringIO()
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    before = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(output),
        ):
            warnings.simplefilter("ignore")
            yield output
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def frozen_copy(module: M) -> M:
    """A copy of a model for the exporter: in evaluation mode, without gradients and in-place calls.

    In-place calls compute the same numbers, but the exporter takes long to undo them.
    """
    own = copy.deepcopy(module).eval().requires_grad_(False)
    for part in own.modules():
        if hasattr(part, "inplace"):
            vars(part)["inplace"] = False
    return own


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Has PyTorch's convolutions compute in float32 on a GPU too, not in TF32."""
    import torch

    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def to_onnx(segmenter: Segmenter, height: int, width: int, *, inference: Inference = "exact") -> Exported:
    """Traces a segmenter into a graph of labels and scores.

    Args:
        segmenter: The model; not changed.
        height: Image height, a multiple of 32.
        width: Image width, a multiple of 32.
        inference: As in `Segmenter.scores`.

    Returns:
        The simplified graph, `image` -> `labels`, `scores`. A text head's classes are inputs too, see
        `SegmenterGraph.extra_inputs`: any number of classes and synonyms.

    Raises:
        CloudsError: The exporter failed.
    """
    import torch

    from clouds_deploy.models.clouds.adapters import merge_adapters
    from clouds_deploy.models.clouds.graph import SegmenterGraph
    from clouds_deploy.models.clouds.names import INPUT, LABELS, SCORES, SHARE

    own = frozen_copy(segmenter).set_form("gather")
    merge_adapters(own)
    graph = SegmenterGraph(own, inference=inference, scores=True)
    example = torch.zeros((2, height, width, 3), dtype=torch.uint8)  # 0 and 1 would be taken for constants
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    extra = graph.extra_inputs()
    free: dict[str, Any] = {"image": {0: batch}, "vocabulary": None, "share": None}
    if extra:
        classes = torch.export.Dim("classes", min=2, max=LARGEST_VOCABULARY)
        free["vocabulary"] = {0: classes, 1: torch.export.Dim("synonyms", min=1, max=LARGEST_SYNONYMS)}
        free["share"] = {0: classes} if SHARE in extra else None
    shapes = dict(list(free.items())[: 1 + len(extra)])
    return trace(graph, (example, *extra.values()), [INPUT, *extra], [LABELS, SCORES], shapes)


def trace(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: dict[str, Any],
) -> Exported:
    """Traces a module, simplifies its graph and names the nodes after its parts.

    Args:
        module: What to export, in evaluation mode.
        example: Tensors to trace it with.
        inputs: The graph's names for them.
        outputs: The graph's names for what the module gives.
        shapes: The free axes of every argument of `forward`, as `torch.export` takes them.

    Raises:
        CloudsError: The exporter failed.
    """
    import torch

    from clouds_deploy.export.simplify import simplify

    with quiet() as output:
        try:
            program: Any = torch.onnx.export(
                module,
                example,
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
        except Exception as error:
            raise CloudsError(
                f"the ONNX exporter failed: {first_line(error)}",
                "report it with the recipe; " + output.getvalue().strip()[-300:],
            ) from error
        raw_nodes = len(list(program.model.graph))
        simplify(program.model)
        name_nodes(program.model)
    return Exported(program.model, raw_nodes)


def name_nodes(model: ir.Model) -> None:
    """Prefixes every node's name with its module: float32 islands and error messages refer to it.

    Args:
        model: What the exporter made, with its records of scopes; changed in place.
    """
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get("pkg.torch.onnx.name_scopes", "[]"))
        module = scopes[-2] if len(scopes) > 1 else ""
        if module and not module.startswith("_"):
            node.name = f"{module}/{node.name}"


def drop_scores(model: ir.Model) -> ir.Model:
    """A copy of the graph without scores and the nodes that only they need."""
    from clouds_deploy.export.simplify import clean
    from clouds_deploy.models.clouds.names import SCORES

    labels_only = model.clone()
    kept = [value for value in labels_only.graph.outputs if value.name != SCORES]
    labels_only.graph.outputs.clear()
    labels_only.graph.outputs.extend(kept)
    clean(labels_only)
    return labels_only


_NEWER_TYPES = {"FLOAT8": 9, "INT4": 10, "UINT4": 10, "FLOAT4": 11, "INT2": 13, "UINT2": 13}
"""The IR version that brought a type, by how its name begins; the others are older than what is written."""


def lowest_ir_version(model: ir.Model) -> int:
    """The lowest IR version that a graph's operator sets and types need: older runtimes refuse newer ones."""
    from onnx import helper

    imports = [helper.make_opsetid(domain, number) for domain, number in model.opset_imports.items()]
    least = int(helper.find_min_ir_version_for(imports, True))
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in model.graph for value in node.outputs]
    names = {value.dtype.name for value in values if value.dtype is not None}
    newer = [version for name in names for word, version in _NEWER_TYPES.items() if name.startswith(word)]
    return max(least, *newer, 8)


def save(model: ir.Model, path: Path, metadata: dict[str, str], name: str = "segmenter") -> int:
    """Writes a graph and has the ONNX checker read it.

    Args:
        model: What `to_onnx` made.
        path: The `.onnx` file; weights over 2 GB go beside it, as `<name>.data`.
        metadata: Facts for `metadata_props`, such as class names.
        name: The graph's name.

    Returns:
        Bytes written.

    Raises:
        CloudsError: The checker refuses the file.
    """
    import onnx
    import onnx_ir as ir

    from clouds_deploy import __version__

    model.producer_name, model.producer_version = "clouds-deploy", __version__
    model.graph.name = name
    model.metadata_props.clear()
    model.metadata_props.update(metadata)
    for node in model.graph:
        node.metadata_props.clear()  # the exporter's stack traces name folders of this machine
    for value in [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    tensors = [v.const_value for v in model.graph.initializers.values()]
    weights = sum(tensor.nbytes for tensor in tensors if tensor is not None)
    apart = weights > LARGEST_FILE
    model.ir_version = lowest_ir_version(model)
    ir.save(model, path, external_data=f"{path.name}.data" if apart else None)
    try:
        onnx.checker.check_model(str(path), full_check=not apart)
    except Exception as error:
        raise CloudsError(
            f"the ONNX checker refuses the exported graph: {error}", "report it with the recipe", exit_code=1
        ) from error
    return sum(p.stat().st_size for p in path.parent.glob(f"{path.name}*"))
