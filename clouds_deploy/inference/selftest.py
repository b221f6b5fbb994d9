"""`selftest`: a bundle's reference inputs run again, on the machine that is to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import environment
from clouds_deploy.backends.backends import open_session, readers
from clouds_deploy.backends.options import Options, Precision
from clouds_deploy.bundles.bundle import DECODER, ENCODER, SAM_KIND, Bundle, open_bundle
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.inference.agreement import label_agreement, mask_overlaps, run_batched
from clouds_deploy.inference.open_sam import open_part
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, MASKS, SCORES

BATCH = 2


@dataclass(frozen=True)
class Check:
    """One comparison with what was packed at the export.

    Attributes:
        backend: The runtime.
        name: What was compared.
        value: Its agreement, 0..1.
        limit: What it must reach.
    """

    backend: str
    name: str
    value: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether the limit was reached."""
        return self.value >= self.limit

    def to_json(self) -> dict[str, Any]:
        """Give the check as JSON values."""
        return {**asdict(self), "passed": self.passed}


def selftest(
    bundle: str | Path,
    *,
    backends: Sequence[str] = (),
    device: str = "cpu",
    precision: Precision = "f32",
) -> dict[str, Any]:
    """Replay a bundle's references.

    Args:
        bundle: The bundle of a segmenter or of a SAM, a folder or a `.clouds` file; every file in it is
            compared with its sha256 first.
        backends: The runtimes that have to agree; none means all that read the bundle's graphs.
        device: Where they run.
        precision: What they compute in; `bf16` for those that can, with an FP16 graph's tolerance.

    Returns:
        `bundle`, `kind`, `precision`, `checks` (each `Check.to_json`), `passed`, `images`, `machine`.

    Raises:
        CloudsError: It is no bundle, or one that was changed; a runtime is not installed or refuses it.
    """
    opened, options = open_bundle(Path(bundle)), Options(device, None, precision)
    replay = _sam if opened.kind == SAM_KIND else _segmenter
    arrays = opened.reference()
    names = tuple(backends) or readers(opened.precision)
    checks = [check for name in names for check in replay(opened, arrays, name, options)]
    return {
        "bundle": str(opened.path),
        "kind": opened.kind,
        "precision": opened.precision,
        "checks": [check.to_json() for check in checks],
        "passed": all(check.passed for check in checks),
        "images": len(arrays[IMAGE]),
        "machine": environment(),
    }


def _segmenter(
    bundle: Bundle, arrays: Mapping[str, Array], backend: str, options: Options
) -> Iterator[Check]:
    images, name = arrays[IMAGE], bundle.outputs[0].name
    limit = bundle.label_agreement
    if options.precision != "f32":
        limit = min(limit, bundle.recipe.export.fp16.label_agreement)
    session = open_session(
        bundle, backend, device=options.device, threads=options.threads, precision=options.precision
    )
    try:
        labels = run_batched(session, images, BATCH)[name]
        same = session.run({session.inputs[0].name: np.repeat(images[:1], 2, axis=0)})[name]
    finally:
        session.close()
    yield Check(backend, "labels equal", label_agreement(labels, arrays[name]), limit)
    yield Check(backend, "equal rows stay equal", label_agreement(same[1], same[0]), 1.0)


def _sam(bundle: Bundle, arrays: Mapping[str, Array], backend: str, options: Options) -> Iterator[Check]:
    half = bundle.precision != "fp32" or options.precision != "f32"
    low = bundle.precision if bundle.precision != "fp32" else "fp16"
    limits = bundle.facts["limits"][low if half else "fp32"]
    encoder, decoder = (open_part(bundle, graph, backend, options) for graph in (ENCODER, DECODER))
    try:
        rows = [
            encoder.run({spec.name: arrays[spec.name][i : i + 1] for spec in encoder.inputs})[EMBEDDINGS]
            for i in range(len(arrays[IMAGE]))
        ]
        feeds = {spec.name: arrays[spec.name] for spec in decoder.inputs}
        masks = decoder.run({**feeds, EMBEDDINGS: np.concatenate(rows)})[MASKS]
    finally:
        encoder.close()
        decoder.close()
    overall, overlaps, sizable = mask_overlaps(masks, arrays[MASKS], arrays[SCORES])
    yield Check(backend, "mask IoU", overall, limits["mask_iou"])
    if sizable.any():
        yield Check(backend, "mask IoU, worst", float(overlaps[sizable].min()), limits["worst_mask_iou"])
