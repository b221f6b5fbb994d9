"""`selftest`: a bundle's reference inputs run again, on the machine that is to use it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import environment, kind_of
from clouds_deploy.backends.backends import open_session, readers
from clouds_deploy.backends.options import Options, Precision
from clouds_deploy.bundles import sam_bundle
from clouds_deploy.bundles.bundle import KIND, open_bundle
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.agreement import label_agreement, mask_overlaps, run_batched
from clouds_deploy.inference.open_sam import open_part

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
    path, backends = unpacked(Path(bundle)), tuple(backends)
    kind = kind_of(path)
    options = Options(device, None, precision)
    if kind == sam_bundle.KIND:
        checks, images, typed = _sam(path, backends, options)
    elif kind == KIND or kind is None:
        checks, images, typed = _segmenter(path, backends, options)
    else:
        raise CloudsError(f"{path} is a {kind}, not a bundle", "give what `clouds-deploy export` made")
    return {
        "bundle": str(path),
        "kind": kind,
        "precision": typed,
        "checks": [check.to_json() for check in checks],
        "passed": all(check.passed for check in checks),
        "images": images,
        "machine": environment(),
    }


def _segmenter(path: Path, backends: tuple[str, ...], options: Options) -> tuple[list[Check], int, str]:
    bundle = open_bundle(path)
    images, expected = bundle.reference()
    (name,) = (spec.name for spec in bundle.outputs[:1])
    limit = bundle.label_agreement
    if options.precision != "f32":
        limit = min(limit, bundle.recipe.export.fp16.label_agreement)
    checks = []
    for backend in backends or readers(bundle.precision):
        session = open_session(
            bundle, backend, device=options.device, threads=options.threads, precision=options.precision
        )
        try:
            labels = run_batched(session, images, BATCH)[name]
            same = session.run({session.inputs[0].name: np.repeat(images[:1], 2, axis=0)})[name]
        finally:
            session.close()
        checks.append(Check(backend, "labels equal", label_agreement(labels, expected[name]), limit))
        checks.append(Check(backend, "equal rows stay equal", label_agreement(same[1], same[0]), 1.0))
    return checks, len(images), bundle.precision


def _sam(path: Path, backends: tuple[str, ...], options: Options) -> tuple[list[Check], int, str]:
    bundle = sam_bundle.open_sam_bundle(path)
    arrays = bundle.reference()
    half = bundle.precision != "fp32" or options.precision != "f32"
    low = bundle.precision if bundle.precision != "fp32" else "fp16"
    limits = bundle.facts["limits"][low if half else "fp32"]
    (inputs, _), (prompts, _) = bundle.specs["encoder"], bundle.specs["decoder"]
    checks = []
    for backend in backends or readers(bundle.precision):
        encoder, decoder = (open_part(bundle, g, backend, options) for g in ("encoder", "decoder"))
        try:
            rows = [
                encoder.run({spec.name: arrays[spec.name][i : i + 1] for spec in inputs})["image_embeddings"]
                for i in range(len(arrays["image"]))
            ]
            feeds = {spec.name: arrays[spec.name] for spec in prompts[1:]}
            masks = decoder.run({"image_embeddings": np.concatenate(rows), **feeds})["masks"]
        finally:
            encoder.close()
            decoder.close()
        overall, overlaps, sizable = mask_overlaps(masks, arrays["masks"], arrays["iou_predictions"])
        checks.append(Check(backend, "mask IoU", overall, limits["mask_iou"]))
        if sizable.any():
            worst = float(overlaps[sizable].min())
            checks.append(Check(backend, "mask IoU, worst", worst, limits["worst_mask_iou"]))
    return checks, len(arrays["image"]), bundle.precision
