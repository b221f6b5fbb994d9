"""What a graph in FP16, BF16 or INT8 has to prove beside what every graph has to."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.session import FixedInputs
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.export import LimitsConfig
from clouds_deploy.export.flops import flops_by_type, share
from clouds_deploy.export.gates import BATCH, Gate, Tolerance, closeness, share_gate
from clouds_deploy.export.half import BF16, FP16, Typed
from clouds_deploy.export.int8 import INT8
from clouds_deploy.export.rounding import rounded
from clouds_deploy.export.trace import save
from clouds_deploy.inference.agreement import label_agreement, run_batched
from clouds_deploy.models.clouds.names import LABELS, SCORES

WORDS = {FP16.name: (FP16.word, "half"), BF16.name: (BF16.word, "bf16"), INT8: (INT8, INT8)}
"""What the types of each precision are called in ONNX and by TensorRT's parser."""


def flops_gate(
    graph: Path,
    limit: float,
    engine: str = "graph",
    free: Mapping[str, int] | None = None,
    *,
    precision: str = FP16.name,
    only: str = "",
) -> Gate:
    """Prove that a file is of a precision, from the types in it.

    Args:
        graph: An ONNX file.
        limit: Least share of the floating-point operations of products and convolutions in the precision.
        engine: What the gate is said to be of.
        free: See `flops_by_type`.
        precision: One of `WORDS`.
        only: See `flops_by_type`.
    """
    word, _ = WORDS[precision]
    counted = flops_by_type(graph, free, only)
    detail = ", ".join(f"{kind} {count / 1e9:.3f} GFLOP" for kind, count in sorted(counted.items()))
    return share_gate(f"{engine} {precision}", f"FLOPs in {word}", share(counted, word), limit, detail)


def engine_gate(
    facts: Mapping[str, Any], limit: float, precision: str = FP16.name, of: int | None = None
) -> Gate:
    """Prove that an engine was built in a precision, from the types that its parser gave the layers.

    Args:
        facts: What `backends.tensorrt.build.build_engine` gave.
        limit: Least share of the products and convolutions in the precision.
        precision: One of `WORDS`.
        of: Of how many products and convolutions it is the share; None means all.
    """
    layers: Mapping[str, int] = facts["layers"]
    word, parsed = WORDS[precision]
    detail = ", ".join(f"{count} {found}" for found, count in sorted(layers.items()))
    value = layers.get(parsed, 0) / max(of or sum(layers.values()), 1)
    return share_gate(f"{facts['engine']} {precision}", f"products in {word}", value, limit, detail)


def prove_rounded(
    typed: Typed, images: Array, expected: dict[str, Array], limits: LimitsConfig, extra: Mapping[str, Array]
) -> list[Gate]:
    """Compare the graph as a GPU would compute it, with every tensor of two bytes rounded; see
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
    name = f"rounded {typed.kind.name}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rounded.onnx"
        save(rounded(typed.model), path, {})
        session = FixedInputs(open_graph(path, "onnxruntime"), extra)
        try:
            found = run_batched(session, images, BATCH)
        finally:
            session.close()
    count = f"{len(images)} images, every {typed.kind.word} tensor rounded, float32 sums"
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
