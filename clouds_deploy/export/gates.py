"""The gates of an export: what a graph must prove, on every backend, before it becomes a bundle.

What is right is PyTorch's answer in eager mode, with deformable attention by `grid_sample`, the formulation
of the papers: so the gates cover the rewriting, the exporter, the simplification and the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.flops import flops_by_type, share

FP32 = "fp32"
BATCH = 4
"""Images in a batch of the gates."""
WORDS = {"fp16": ("float16", "half"), "bf16": ("bfloat16", "bf16"), "int8": ("int8", "int8")}
"""Names of each lower precision's type in ONNX and in TensorRT's parser."""


@dataclass(frozen=True)
class Gate:
    """One comparison that had to hold.

    Attributes:
        engine: The backend that it was made on, or the file.
        name: What was compared.
        value: The result.
        limit: The least (agreements) or the largest (errors) value that passes.
        passed: Whether it passed.
        detail: How it was measured.
        shown: `value` for people.
        limit_shown: `limit` for people.
    """

    engine: str
    name: str
    value: float
    limit: float
    passed: bool
    detail: str
    shown: str
    limit_shown: str

    def to_json(self) -> dict[str, Any]:
        """The gate as JSON values."""
        return asdict(self)


def share_gate(engine: str, name: str, value: float, limit: float, detail: str) -> Gate:
    """A gate that passes from `limit` on; value and limit are shares, 0..1."""
    return Gate(
        engine, name, value, limit, value >= limit, detail, f"{100 * value:.4f} %", f">= {100 * limit:g} %"
    )


def error_gate(engine: str, name: str, value: float, limit: float, detail: str) -> Gate:
    """A gate that passes up to `limit`; an error that is not finite fails."""
    passed = bool(np.isfinite(value)) and value <= limit
    return Gate(engine, name, value, limit, passed, detail, f"{value:.3g}", f"<= {limit:g}")


@dataclass(frozen=True)
class Tolerance:
    """How far numbers may be from the reference's.

    Attributes:
        largest: The largest difference, as a share of the largest number.
        relative: The L2 norm of the differences, as a share of the numbers' norm.
        cosine: The least cosine between both.
    """

    largest: float
    relative: float
    cosine: float


def closeness(
    engine: str, what: str, found: Array, expected: Array, tolerance: Tolerance, detail: str
) -> list[Gate]:
    """Compares numbers by their largest difference, their relative L2 difference and their cosine.

    Args:
        engine: The backend that computed them.
        what: What they are, in a word.
        found: The numbers.
        expected: The right ones, of the same shape.
        tolerance: What passes.
        detail: How they were measured.

    Returns:
        Three gates; one that fails where the shapes differ.
    """
    if found.shape != expected.shape:
        wrong = f"shape {list(found.shape)}, not {list(expected.shape)}"
        return [error_gate(engine, f"largest {what} error", float("inf"), tolerance.largest, wrong)]
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    largest, norm = max(float(np.abs(b).max()), 1e-12), max(float(np.linalg.norm(b)), 1e-12)
    error = float(np.abs(a - b).max()) / largest
    relative = float(np.linalg.norm(a - b)) / norm
    cosine = float(a @ b) / max(float(np.linalg.norm(a)) * norm, 1e-12)
    scaled = f"{detail}, share of the largest {what}, {largest:.3g}"
    return [
        error_gate(engine, f"largest {what} error", error, tolerance.largest, scaled),
        error_gate(engine, f"relative L2 {what} error", relative, tolerance.relative, detail),
        share_gate(engine, f"{what} cosine", cosine, tolerance.cosine, detail),
    ]


def flops_gate(
    graph: Path,
    limit: float,
    what: str = "graph",
    free: Mapping[str, int] | None = None,
    *,
    precision: str = "fp16",
    only: str = "",
) -> Gate:
    """Proves from the types in a file that its products are computed in a precision.

    Args:
        graph: An ONNX file.
        limit: Least share of the floating-point operations of matrix products and convolutions.
        what: What the gate calls the file, or the part of it that `only` names.
        free: See `flops_by_type`.
        precision: One of `WORDS`.
        only: See `flops_by_type`.
    """
    word, _ = WORDS[precision]
    counted = flops_by_type(graph, free, only)
    detail = ", ".join(f"{kind} {count / 1e9:.3f} GFLOP" for kind, count in sorted(counted.items()))
    return share_gate(f"{what} {precision}", f"FLOPs in {word}", share(counted, word), limit, detail)


def engine_gate(
    facts: Mapping[str, Any], limit: float, precision: str = "fp16", of: int | None = None
) -> Gate:
    """Proves that an engine was built in a precision, from the types that its parser gave the layers.

    Args:
        facts: What `backends.tensorrt.build.build_engine` returned.
        limit: Least share of the matrix products and convolutions.
        precision: One of `WORDS`.
        of: The number of products and convolutions that it is a share of; None means all.
    """
    layers: Mapping[str, int] = facts["layers"]
    word, parsed = WORDS[precision]
    detail = ", ".join(f"{count} {found}" for found, count in sorted(layers.items()))
    value = layers.get(parsed, 0) / max(of or sum(layers.values()), 1)
    return share_gate(f"{facts['engine']} {precision}", f"products in {word}", value, limit, detail)


def street_images(height: int, width: int, count: int = BATCH, seed: int = 20240617) -> Array:
    """Synthetic streets for the gates to look at: random noise would have no class boundaries.

    Returns:
        (count, height, width, 3) uint8 RGB, the synthetic domains one after the other.
    """
    from clouds_deploy.streets import DOMAINS, render

    domains = list(DOMAINS)
    scenes = (render(domains[i % len(domains)], seed, i, height, width) for i in range(count))
    return np.stack([scene.image for scene in scenes])


def read_images(images: Path | Sequence[Path]) -> list[Array]:
    """Reads images, or those of a folder.

    Returns:
        Each (H, W, 3) uint8 RGB.

    Raises:
        CloudsError: There are none, or one cannot be read.
    """
    from clouds_deploy.data.images import list_images, read_image

    chosen = list_images([images] if isinstance(images, Path) else images)
    if not chosen:
        raise CloudsError(f"there are no images in {images}", "give a folder of PNG or JPEG images")
    return [read_image(path) for path in chosen]


def table(gates: Sequence[Gate]) -> str:
    """The gates as lines of text, the failed ones marked."""
    rows = [
        f"  {'ok    ' if g.passed else 'FAILED'}  {g.engine:<12} {g.name:<26} {g.shown:>12}  {g.limit_shown}"
        for g in gates
    ]
    return "\n".join(rows)


def require_passed(gates: Sequence[Gate], where: Callable[[Gate], str] | None = None) -> None:
    """Ends an export whose graph did not pass.

    Args:
        gates: All gates so far.
        where: Finds, for the first failed gate, where the graph goes wrong; an empty text says nothing.

    Raises:
        CloudsError: A gate failed; exit code 1, with the table of gates, the failed ones first.
    """
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        found = where(failed[0]) if where is not None else ""
        raise CloudsError(
            f"{len(failed)} of {len(gates)} gates failed, no bundle was written\n"
            + table(sorted(gates, key=lambda gate: gate.passed)),
            "the graph does not compute what PyTorch computes; see the failed lines"
            + (f"; {found}" if found else ""),
            exit_code=1,
        )
