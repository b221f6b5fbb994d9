"""The gates: a graph is let through when every runtime proves to compute what PyTorch computes.

The reference is the network in PyTorch's eager mode with deformable attention by `grid_sample`, the
formulation of the papers; so the gates cover the rewriting, the exporter, the simplification and the runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.session import FixedInputs, Session
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.export import ExportConfig, LimitsConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.agreement import label_agreement, run_batched
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.names import INPUT, LABELS, SCORES
from clouds_deploy.models.clouds.segmenter import Inference, Segmenter

BATCH = 4
BATCH_AGREEMENT = 0.9999
"""Share of labels that may not depend on the batch, float32."""


@dataclass(frozen=True)
class Gate:
    """One thing that had to be proven.

    Attributes:
        engine: The runtime it was proven on.
        name: What was compared.
        value: What came out.
        limit: What it must reach (agreements) or stay within (errors).
        passed: Whether it did.
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
        """Give the gate as JSON values."""
        return asdict(self)


def share_gate(engine: str, name: str, value: float, limit: float, detail: str) -> Gate:
    """Ask for at least `limit` of something; both are 0..1."""
    return Gate(
        engine, name, value, limit, value >= limit, detail, f"{100 * value:.4f} %", f">= {100 * limit:g} %"
    )


def error_gate(engine: str, name: str, value: float, limit: float, detail: str) -> Gate:
    """Ask for at most `limit` of an error."""
    passed = bool(np.isfinite(value)) and value <= limit
    return Gate(engine, name, value, limit, passed, detail, f"{value:.1e}", f"<= {limit:.0e}")


def drawn_images(height: int, width: int, count: int = BATCH, seed: int = 20240617) -> Array:
    """Draw streets for the gates to look at: random noise would exercise no class boundary.

    Returns:
        (count, height, width, 3) uint8 RGB, the drawn domains in turn.
    """
    from clouds_deploy.streets import DOMAINS, render

    domains = list(DOMAINS)
    scenes = (render(domains[i % len(domains)], seed, i, height, width) for i in range(count))
    return np.stack([scene.image for scene in scenes])


def reference(segmenter: Segmenter, images: Array, inference: Inference) -> dict[str, Array]:
    """Compute what is right.

    Args:
        segmenter: The trained model; left as it is.
        images: (N, H, W, 3) uint8.
        inference: As in `Segmenter.scores`.

    Returns:
        `labels` (N, H, W) uint8 and `scores` (N, 19, H/4, W/4) float32.
    """
    import torch

    rows = []
    with _form(segmenter), torch.inference_mode():
        graph = SegmenterGraph(segmenter, inference=inference, scores=True)
        rows = [graph(torch.from_numpy(image[None])) for image in images]
    labels, scores = (np.concatenate([row[i].numpy() for row in rows]) for i in (0, 1))
    return {LABELS: labels, SCORES: scores}


@contextmanager
def _form(segmenter: Segmenter) -> Iterator[None]:
    from clouds_deploy.models.clouds.deformable_attention import DeformableAttention

    layers = [m for m in segmenter.modules() if isinstance(m, DeformableAttention)]
    before, training = [layer.form for layer in layers], segmenter.training
    segmenter.set_form("grid_sample").eval()
    try:
        yield
    finally:
        segmenter.train(training)
        for layer, form in zip(layers, before, strict=True):
            layer.form = form


def prove(
    engine: str,
    shipped: Path,
    with_scores: Path,
    images: Array,
    expected: dict[str, Array],
    limits: ExportConfig | LimitsConfig,
    extra: Mapping[str, Array] | None = None,
) -> list[Gate]:
    """Run one runtime through all gates.

    Args:
        engine: A backend that reads ONNX.
        shipped: The graph that will be deployed.
        with_scores: The same graph with `scores` among its outputs; may be the same file.
        images: (N, H, W, 3) uint8, N at least 2.
        expected: What `reference` gave for them.
        limits: The tolerances.
        extra: What the graph takes beside images, by input name.

    Returns:
        The gates, passed or not.

    Raises:
        CloudsError: The runtime is not installed or refuses the graph.
    """
    count = f"{len(images)} images, {len(np.unique(expected[LABELS]))} classes"
    session = FixedInputs(open_graph(shipped, engine), extra or {})
    try:
        gates = [*_labels(engine, session, images, expected, limits, count)]
        alike = limits.batch_agreement if isinstance(limits, LimitsConfig) else BATCH_AGREEMENT
        gates += _batch_invariance(engine, session, images, alike)
    finally:
        session.close()
    session = FixedInputs(open_graph(with_scores, engine), extra or {})
    try:
        scores = run_batched(session, images, BATCH)[SCORES]
    finally:
        session.close()
    return [*gates, *closeness(engine, "score", scores, expected[SCORES], Tolerance.of(limits), count)]


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

    @staticmethod
    def of(limits: ExportConfig | LimitsConfig) -> Tolerance:
        """Give the tolerance of class scores that a recipe sets."""
        if isinstance(limits, LimitsConfig):
            return Tolerance(limits.max_score_error, limits.relative_error, limits.cosine)
        return Tolerance(limits.max_score_error, limits.max_score_error, 0.99999)


def closeness(
    engine: str, what: str, found: Array, expected: Array, tolerance: Tolerance, detail: str
) -> list[Gate]:
    """Compare numbers: their largest difference, their relative L2 difference, their cosine.

    Args:
        engine: The runtime that they are from.
        what: What they are, in a word.
        found: What came out.
        expected: What is right, of the same shape.
        tolerance: What is let through.
        detail: How it was measured.

    Returns:
        Three gates.
    """
    if found.shape != expected.shape:
        wrong = f"shape {list(found.shape)}, not {list(expected.shape)}"
        return [error_gate(engine, f"largest {what} error", float("inf"), tolerance.largest, wrong)]
    a, b = found.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    largest, norm = max(float(np.abs(b).max()), 1e-12), max(float(np.linalg.norm(b)), 1e-12)
    error = float(np.abs(a - b).max()) / largest
    relative = float(np.linalg.norm(a - b)) / norm
    cosine = float(a @ b) / max(float(np.linalg.norm(a)) * norm, 1e-12)
    share = f"{detail}, share of the largest {what}, {largest:.3g}"
    return [
        error_gate(engine, f"largest {what} error", error, tolerance.largest, share),
        error_gate(engine, f"relative L2 {what} error", relative, tolerance.relative, detail),
        share_gate(engine, f"{what} cosine", cosine, tolerance.cosine, detail),
    ]


def _labels(
    engine: str,
    session: Session,
    images: Array,
    expected: dict[str, Array],
    limits: ExportConfig | LimitsConfig,
    count: str,
) -> Iterator[Gate]:
    labels = run_batched(session, images, BATCH)[LABELS]
    limit = limits.label_agreement
    yield share_gate(engine, "labels equal", label_agreement(labels, expected[LABELS]), limit, count)
    worst = min(label_agreement(a, b) for a, b in zip(labels, expected[LABELS], strict=True))
    loose = 1 - 10 * (1 - limit)
    yield share_gate(engine, "labels equal, worst image", worst, loose, f"the worst of {count}")


def _batch_invariance(
    engine: str, session: Session, images: Array, limit: float = BATCH_AGREEMENT
) -> Iterator[Gate]:
    """A row's labels may not depend on the rows beside it; some engines' do (NVIDIA/TensorRT #4813, #4853).

    Kernels may round differently for another batch size, so the comparison across sizes allows a stray
    pixel; equal rows of one call allow none.
    """
    one = np.concatenate([session.run({INPUT: image[None]})[LABELS] for image in images[:BATCH]])
    same = session.run({INPUT: np.repeat(images[:1], 3, axis=0)})[LABELS]
    equal = min(label_agreement(row, same[0]) for row in same)
    yield share_gate(engine, "equal rows stay equal", equal, 1.0, "one image three times in a batch")
    many = session.run({INPUT: images[:BATCH]})[LABELS]
    yield share_gate(
        engine, "batch 1 = batch N", label_agreement(many, one), limit, f"N = {len(images[:BATCH])}"
    )
    order = np.roll(np.arange(len(many)), 1)
    shuffled = session.run({INPUT: np.ascontiguousarray(images[:BATCH][order])})[LABELS]
    yield share_gate(
        engine, "shuffled rows", label_agreement(shuffled, many[order]), limit, f"N = {len(many)}"
    )


def table(gates: Sequence[Gate]) -> str:
    """Lay the gates out as text, the failed ones marked."""
    rows = [
        f"  {'ok    ' if g.passed else 'FAILED'}  {g.engine:<12} {g.name:<26} {g.shown:>12}  {g.limit_shown}"
        for g in gates
    ]
    return "\n".join(rows)


def require_passed(gates: Sequence[Gate], where: Callable[[Gate], str] | None = None) -> None:
    """Refuse an export that could not be proven.

    Args:
        gates: All of them.
        where: Asked where the first failed one's graph goes wrong.

    Raises:
        CloudsError: A gate failed; exit code 1, with the whole table.
    """
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise CloudsError(
            f"{len(failed)} of {len(gates)} gates failed, no bundle was written\n{table(gates)}",
            "the runtime does not compute what PyTorch computes; see the failed lines"
            + (f"; {where(failed[0])}" if where is not None else ""),
            exit_code=1,
        )
