"""A SAM's bundle whose graphs are a few nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clouds_deploy.artifacts import write_json, write_manifest

SIDE, GRID, CHANNELS = 64, 4, 3
LOW = 4 * GRID


def value(name: str, dtype: str, *shape: int | None) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": list(shape)}


ENCODER = {
    "file": "encoder.onnx",
    "inputs": [value("image", "uint8", None, SIDE, SIDE, 3), value("size", "int32", None, 2)],
    "outputs": [value("image_embeddings", "float32", None, CHANNELS, GRID, GRID)],
}
DECODER = {
    "file": "decoder.onnx",
    "inputs": [
        value("image_embeddings", "float32", None, CHANNELS, GRID, GRID),
        value("image_index", "int64", None),
        value("point_coords", "float32", None, None, 2),
        value("point_labels", "float32", None, None),
    ],
    "outputs": [
        value("masks", "float32", None, 3, LOW, LOW),
        value("iou_predictions", "float32", None, 3),
    ],
}
TYPES = {
    "uint8": TensorProto.UINT8,
    "int32": TensorProto.INT32,
    "int64": TensorProto.INT64,
    "float32": TensorProto.FLOAT,
}


def save(path: Path, nodes: list[Any], facts: dict[str, Any], constants: dict[str, Any]) -> None:
    def info(spec: dict[str, Any]) -> Any:
        name, sizes = spec["name"], [d or f"{spec['name']}{i}" for i, d in enumerate(spec["shape"])]
        return helper.make_tensor_value_info(name, TYPES[spec["dtype"]], sizes)

    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    inputs, outputs = ([info(spec) for spec in facts[side]] for side in ("inputs", "outputs"))
    graph = helper.make_graph(nodes, "toy", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_toy_sam(path: Path) -> Path:
    """Write a bundle: embeddings are mean colours plus the size; masks are these and the points."""
    path.mkdir(parents=True)
    node, step = helper.make_node, SIDE // GRID
    save(
        path / "encoder.onnx",
        [
            node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
            node("AveragePool", ["planes"], ["means"], kernel_shape=[step, step], strides=[step, step]),
            node("Cast", ["size"], ["lengths"], to=TensorProto.FLOAT),
            node("ReduceMean", ["lengths"], ["length"], axes=[1], keepdims=1),
            node("Unsqueeze", ["length", "last"], ["shift"]),
            node("Add", ["means", "shift"], ["image_embeddings"]),
        ],
        ENCODER,
        {"last": np.array([2, 3], np.int64)},
    )
    save(
        path / "decoder.onnx",
        [
            node("Gather", ["image_embeddings", "image_index"], ["chosen"], axis=0),
            node("Unsqueeze", ["point_labels", "two"], ["weights"]),
            node("Mul", ["point_coords", "weights"], ["weighed"]),
            node("ReduceSum", ["weighed", "onetwo"], ["sum"], keepdims=0),
            node("ReduceSum", ["point_labels", "one"], ["total"], keepdims=1),
            node("Unsqueeze", ["sum", "rest"], ["place"]),
            node("Sub", ["chosen", "grey"], ["centred"]),
            node("Add", ["centred", "place"], ["low"]),
            node("Resize", ["low", "", "scales"], ["masks"], mode="linear"),
            node("Mul", ["total", "steps"], ["iou_predictions"]),
        ],
        DECODER,
        {
            "one": np.array([1], np.int64), "two": np.array([2], np.int64),
            "onetwo": np.array([1, 2], np.int64), "rest": np.array([1, 2, 3], np.int64),
            "grey": np.float32(150), "scales": np.array([1, 1, 4, 4], np.float32),
            "steps": np.array([[0.1, 0.3, -0.2]], np.float32),
        },
    )  # fmt: skip
    graphs = {"encoder": ENCODER, "decoder": DECODER}
    facts = {"model": "sam", "name": "toy", "image_size": SIDE, "weights": "none", "graphs": graphs}
    write_json(path / "bundle.json", facts)
    write_manifest(path, "sam_bundle")
    return path
