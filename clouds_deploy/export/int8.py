"""INT8 graphs: the backbone's products between QuantizeLinear and DequantizeLinear.

ONNX Runtime's quantiser writes the pairs, in the one form that every engine here reads: signed and symmetric,
weights by output channel, activations by tensor, biases left alone, and a pair before every product but none
behind it, so that sums stay in float32. Why this form and quantiser:
docs/explanation/decisions/0008-int8-and-bf16.md.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.export import Int8Config
from clouds_deploy.errors import CloudsError, install
from clouds_deploy.export.simplify import clean
from clouds_deploy.models.clouds.names import INPUT
from clouds_deploy.telemetry import load_onnxruntime

INT8 = "int8"
PRODUCTS = ("Conv", "MatMul", "Gemm")
"""Operations that are quantised: products with a constant, and convolutions that see all channels."""


@dataclass(frozen=True)
class Quantized:
    """A quantised graph.

    Attributes:
        model: The graph; inputs and outputs are as they were.
        products: How many convolutions and products are in INT8.
        images: How many images the ranges are from.
    """

    model: ir.Model
    products: int
    images: int

    def to_json(self) -> dict[str, Any]:
        """The counts, for manifests."""
        return {"products": self.products, "calibration_images": self.images}


def quantize(model: ir.Model, limits: Int8Config, images: Array, extra: Mapping[str, Array]) -> Quantized:
    """Quantises the products that a recipe names.

    Args:
        model: What `to_onnx` made; not changed.
        limits: Names the nodes.
        images: (N, H, W, 3) uint8, which the ranges of activations are taken from: least and largest value.
        extra: What the graph takes beside images, by input name.

    Raises:
        CloudsError: `nodes` names no product or is not a regex; ONNX Runtime, whose quantiser it is, is not
            installed.
    """
    try:
        quantization = load_onnxruntime("onnxruntime.quantization")
    except ImportError as error:
        raise CloudsError(
            "onnxruntime, which quantises the graph, is not installed", install("cpu")
        ) from error
    chosen = _chosen(model, limits.nodes)

    class Images(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._feeds = iter([{INPUT: image[None], **extra} for image in images])

        def get_next(self) -> dict[str, Array] | None:
            return next(self._feeds, None)

    with Scratch() as folder, _silent():
        source, target = folder / "float.onnx", folder / "int8.onnx"
        ir.save(model, source, external_data="float.onnx.data")
        quantization.quantize_static(
            source,
            target,
            Images(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS),
            nodes_to_quantize=chosen,
            per_channel=True,
            use_external_data_format=True,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": list(PRODUCTS),
            },
        )
        made = ir.load(target)
        ir.external_data.load_to_model(made)
    _spare_others(made, set(chosen))
    made.opset_imports.clear()
    made.opset_imports.update(model.opset_imports)
    return Quantized(made, sum(_is_int8(node) for node in made.graph), len(images))


def evenly(images: Array, most: int | None) -> Array:
    """Evenly spaced images, at most so many."""
    if most is None or len(images) <= most:
        return images
    chosen: Array = images[np.linspace(0, len(images) - 1, most).round().astype(int)]
    return chosen


def _chosen(model: ir.Model, nodes: str) -> list[str]:
    try:
        pattern = re.compile(nodes)
    except re.error as error:
        raise CloudsError(
            f"export.int8.nodes `{nodes}` is not a regex: {error}", "correct it in the export recipe"
        ) from error
    named = [
        node.name or ""
        for node in model.graph
        if _is_product(node) and pattern.search(f"{node.name} {node.op_type}")
    ]
    if not named:
        raise CloudsError(
            f"export.int8.nodes `{nodes}` names no convolution and no product",
            "the shipped recipe names the backbone",
        )
    return named


def _is_product(node: ir.Node) -> bool:
    """Whether a node is quantised.

    Depthwise convolutions are not: little work, a range for each channel, and OpenVINO computes them wrongly.
    """
    groups = node.attributes.get("group")
    return node.op_type in PRODUCTS and (groups is None or groups.as_int() == 1)


def _spare_others(model: ir.Model, chosen: set[str]) -> None:
    """Has sums and the head read the unrounded value: the quantiser gives the rounded one to all."""
    for node in model.graph:
        for index, value in enumerate(() if node.name in chosen else node.inputs):
            restorer = value.producer() if value is not None else None
            rounder = restorer.inputs[0] if restorer is not None else None
            maker = rounder.producer() if rounder is not None else None
            if maker is not None and maker.op_type == "QuantizeLinear" and node.op_type != "DequantizeLinear":
                node.replace_input_with(index, maker.inputs[0])
    clean(model)


def _is_int8(node: ir.Node) -> bool:
    makers = [value.producer() for value in node.inputs[:2] if value is not None]
    pairs = sum(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
    return node.op_type in PRODUCTS and pairs == 2


@contextmanager
def _silent() -> Iterator[None]:
    """Silences the quantiser, which asks for a preparation of the graph that `simplify` has done."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
