"""The FP16 form of an exported segmenter, and what it has to prove beside what every graph has to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from clouds_deploy.config import HalfConfig
from clouds_deploy.export.flops import flops_by_type, share
from clouds_deploy.export.onnx import drop_scores, save
from clouds_deploy.export.parity import BATCH, Gate, Tolerance, closeness, prove, share_gate
from clouds_deploy.export.precision import Typed, rounded, to_fp16
from clouds_deploy.models.graph import INPUT, LABELS, SCORES
from clouds_deploy.runtime.agreement import label_agreement, run_batched
from clouds_deploy.runtime.backends import open_graph
from clouds_deploy.runtime.session import Array
from clouds_deploy.runtime.vocabulary import FixedInputs

HALF = "fp16"
SAMPLES = 8
"""Images that are looked at for values that overflow."""


def type_segmenter(
    model: ir.Model, limits: HalfConfig, images: Array, extra: Mapping[str, Array]
) -> tuple[Typed, ir.Model]:
    """Type an exported segmenter in FP16.

    Args:
        model: What `to_onnx` made, with scores; not changed.
        limits: Its islands are kept in float32.
        images: (N, H, W, 3) uint8; the last ones, a user's own where there are any, are run for their ranges.
        extra: What the graph takes beside images, by input name.

    Returns:
        The typed graph with scores, and the one without.
    """
    samples = [{INPUT: image[None], **extra} for image in images[-SAMPLES:]]
    typed = to_fp16(model, limits.islands, samples)
    return typed, drop_scores(typed.model)


def flops_gate(
    graph: Path, limit: float, engine: str = "graph", free: Mapping[str, int] | None = None
) -> Gate:
    """Prove that a file is FP16, from the types in it.

    Args:
        graph: An ONNX file.
        limit: Least share of the floating-point operations of products and convolutions in float16.
        engine: What the gate is said to be of.
        free: See `flops_by_type`.
    """
    counted = flops_by_type(graph, free)
    detail = ", ".join(f"{kind} {count / 1e9:.3f} GFLOP" for kind, count in sorted(counted.items()))
    return share_gate(f"{engine} {HALF}", "FLOPs in float16", share(counted, "float16"), limit, detail)


def engine_gate(facts: Mapping[str, Any], limit: float) -> Gate:
    """Prove that an engine was built in FP16, from the types that its parser gave the layers.

    Args:
        facts: What `engines.build.build_engine` gave.
        limit: Least share of the products and convolutions in float16.
    """
    layers: Mapping[str, int] = facts["layers"]
    detail = ", ".join(f"{count} {kind}" for kind, count in sorted(layers.items()))
    value = layers.get("half", 0) / max(sum(layers.values()), 1)
    return share_gate(f"{facts['engine']} {HALF}", "products in float16", value, limit, detail)


def prove_half(
    engine: str,
    shipped: Path,
    with_scores: Path,
    images: Array,
    expected: dict[str, Array],
    limits: HalfConfig,
    extra: Mapping[str, Array],
) -> list[Gate]:
    """Run one runtime through all gates with FP16's tolerances; arguments as `parity.prove`."""
    gates = prove(engine, shipped, with_scores, images, expected, limits, extra)
    return [replace(gate, engine=f"{engine} {HALF}") for gate in gates]


def prove_rounded(
    typed: Typed, images: Array, expected: dict[str, Array], limits: HalfConfig, extra: Mapping[str, Array]
) -> list[Gate]:
    """Compare the graph as a GPU would compute it, with every float16 tensor rounded; see
    `precision.rounded`.

    Args:
        typed: The typed graph, with scores.
        images: (N, H, W, 3) uint8.
        expected: What `parity.reference` gave for them.
        limits: The tolerances.
        extra: What the graph takes beside images, by input name.

    Returns:
        The gates of labels and scores.

    Raises:
        CloudsError: onnxruntime, which runs it, is not installed.
    """
    name = f"rounded {HALF}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.onnx"
        save(rounded(typed.model), path, {})
        session = FixedInputs(open_graph(path, "onnxruntime"), extra)
        try:
            found = run_batched(session, images, BATCH)
        finally:
            session.close()
    count = f"{len(images)} images, every float16 tensor rounded, float32 sums"
    labels, right = found[LABELS], expected[LABELS]
    worst = min(label_agreement(a, b) for a, b in zip(labels, right, strict=True))
    limit = limits.label_agreement
    return [
        share_gate(name, "labels equal", label_agreement(labels, right), limit, count),
        share_gate(name, "labels equal, worst image", worst, 1 - 10 * (1 - limit), f"the worst of {count}"),
        *closeness(
            name, "score", found[SCORES].astype(np.float32), expected[SCORES], Tolerance.of(limits), count
        ),
    ]
