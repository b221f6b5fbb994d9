"""A bundle whose graph is a few nodes: everything about a bundle but the network, made in milliseconds."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from clouds_deploy.artifacts import write_json, write_manifest
from clouds_deploy.bundles.bundle import FACTS, GATES, GRAPH, KIND, REFERENCE
from clouds_deploy.bundles.vocabulary import FILE, Vocabulary
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.labels import CLASSES, NAMES

HEIGHT, WIDTH, DIMENSIONS = 32, 64, 3


def write_toy(
    path: Path,
    *,
    height: int = HEIGHT,
    width: int = WIDTH,
    text: bool = False,
    scores: bool = False,
    compressed: bool = False,
    beside: bool = False,
    **facts: Any,
) -> Path:
    """Write a bundle that labels each pixel by its colour.

    Args:
        path: Its directory, made here.
        height: Of the graph.
        width: Of the graph.
        text: Whether classes are vectors beside the image, as with the text head.
        scores: Whether it gives scores too.
        compressed: Whether the reference is packed as bundles up to 0.1.0 had it.
        beside: Whether the weights lie in a file of their own, as those over 2 GB do.
        facts: What else `bundle.json` says.
    """
    path.mkdir(parents=True)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(DIMENSIONS, len(NAMES))).astype(np.float32)
    graph = _graph(height, width, text, scores, weights)
    onnx.save(graph, path / GRAPH, save_as_external_data=beside, location=f"{GRAPH}.data", size_threshold=0)
    size = (height, width)
    image = {"name": "image", "dtype": "uint8", "shape": [None, *size, 3]}
    words = [
        {"name": "vocabulary", "dtype": "float32", "shape": [None, None, DIMENSIONS]},
        {"name": "class_share", "dtype": "float32", "shape": [None]},
    ]
    outputs: list[dict[str, Any]] = [{"name": "labels", "dtype": "uint8", "shape": [None, *size]}]
    if scores:
        outputs.append(
            {"name": "scores", "dtype": "float32", "shape": [None, len(NAMES), height // 4, width // 4]}
        )
    if text:
        share = np.linspace(0, 1, len(NAMES), dtype=np.float32)
        Vocabulary(NAMES, np.ascontiguousarray(weights.T[:, None]), share).save(path / FILE)
    write_json(
        path / FACTS,
        {
            "inputs": [image, *(words if text else [])],
            "outputs": outputs,
            "height": height,
            "width": width,
            "classes": list(NAMES),
            "palette": [list(c.color) for c in CLASSES],
            "mean_color": [124, 116, 104],
            "inference": "exact",
            "precision": "fp32",
            "label_agreement": 0.9999,
            "backbone_weights": "none",
            "random_weights": False,
            "recipe": Recipe(name="toy").model_dump(mode="json"),
            "engines": [],
            **facts,
        },
    )
    write_json(path / GATES, {"images": 0, "gates": []})
    _write_reference(path, height, width, compressed)
    seal(path)
    return path


def seal(path: Path) -> None:
    """Write the manifest anew."""
    write_manifest(path, KIND)


def change_facts(path: Path, **facts: Any) -> None:
    """Change `bundle.json` and seal it again: a bundle that holds and cannot run."""
    write_json(path / FACTS, {**json.loads((path / FACTS).read_text()), **facts})
    seal(path)


def _graph(height: int, width: int, text: bool, scores: bool, weights: np.ndarray) -> Any:
    nodes = [
        helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["floats", "grey"], ["centred"]),
        helper.make_node("MatMul", ["centred", "weights"], ["products"]),
    ]
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", height, width, 3])]
    constants = [numpy_helper.from_array(np.float32(127), "grey")]
    if text:
        nodes[2:2] = [
            helper.make_node("ReduceMean", ["vocabulary"], ["means"], axes=[1], keepdims=0),
            helper.make_node("Transpose", ["means"], ["weights"], perm=[1, 0]),
        ]
        nodes.append(helper.make_node("Add", ["products", "class_share"], ["logits"]))
        inputs += [
            helper.make_tensor_value_info("vocabulary", TensorProto.FLOAT, ["classes", "words", DIMENSIONS]),
            helper.make_tensor_value_info("class_share", TensorProto.FLOAT, ["classes"]),
        ]
    else:
        constants.append(numpy_helper.from_array(weights, "weights"))
        nodes.append(helper.make_node("Identity", ["products"], ["logits"]))
    nodes += [
        helper.make_node("ArgMax", ["logits"], ["best"], axis=3, keepdims=0),
        helper.make_node("Cast", ["best"], ["labels"], to=TensorProto.UINT8),
    ]
    outputs = [helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", height, width])]
    if scores:
        constants.append(numpy_helper.from_array(np.float32(0.02), "slope"))
        nodes += [
            helper.make_node("Mul", ["logits", "slope"], ["gentle"]),
            helper.make_node("Sigmoid", ["gentle"], ["shares"]),
            helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
            helper.make_node("AveragePool", ["planes"], ["scores"], kernel_shape=[4, 4], strides=[4, 4]),
        ]
        shape = ["batch", weights.shape[1], height // 4, width // 4]
        outputs.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape))
    graph = helper.make_graph(nodes, "toy", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _write_reference(path: Path, height: int, width: int, compressed: bool) -> None:
    """Pack two images with what OpenVINO says of them."""
    import openvino

    images = np.random.default_rng(1).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    model = openvino.Core().compile_model(str(path / GRAPH), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    feeds = {"image": images}
    if (path / FILE).is_file():
        words = Vocabulary.load(path / FILE)
        feeds |= {"vocabulary": words.vectors, "class_share": words.share}
    arrays = {"image": images, "labels": model(feeds)["labels"]}
    how = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path / REFERENCE, "w", how) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
