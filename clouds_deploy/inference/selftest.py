"""The verb `selftest`: a bundle's reference inputs run again on the machine that is to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from clouds_deploy.artifacts import environment, sha256
from clouds_deploy.backends.backends import chosen, open_session, readers
from clouds_deploy.backends.device import announce
from clouds_deploy.backends.session import Session
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.bundles.bundle import SAM_KIND, Bundle, open_bundle
from clouds_deploy.bundles.proofs import write_proof
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.inference.agreement import label_agreement, mask_overlaps, run_batched
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, MASKS, SCORES

BATCH = 2


@dataclass(frozen=True)
class Check:
    """One comparison with what was packed at the export.

    Attributes:
        backend: What computed.
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
        """Returns the check as JSON values."""
        return {**asdict(self), "passed": self.passed}


def selftest(
    bundle: str | Path,
    *,
    backends: Sequence[str] = (),
    device: str = "auto",
    precision: str = "fp32",
) -> dict[str, Any]:
    """Runs a bundle's reference inputs again and compares the outputs with those of its export.

    Args:
        bundle: The bundle of a segmenter or of a SAM, a folder or a `.clouds` file; every file in it is
            compared with its sha256 first.
        backends: The backends that have to agree; none means all that read the bundle's graphs.
        device: Where they compute; see `backends.device.resolve_device`.
        precision: What they compute in; `bf16` for those that can, with a BF16 graph's limits.

    Returns:
        `bundle`, `kind`, `precision`, `checks` (each `Check.to_json`), `passed`, `images`, `machine`,
        `proofs` (the files that record what engines did on this GPU, see `bundles.proofs`).

    Raises:
        CloudsError: It is no bundle, or one that was changed; a backend is not installed or refuses it.
    """
    opened = open_bundle(Path(bundle))
    checks: list[Check] = []
    proofs: list[str] = []
    for name in tuple(backends) or readers(opened.precision):
        backend, computing = chosen(name, precision)
        sessions = [
            open_session(opened, backend, graph, device=device, precision=computing)
            for graph in opened.graphs
        ]
        announce(sessions[0].device, backend, computing)
        made = replayed(opened, sessions, computing)
        checks += made
        if backend in ENGINES:
            proofs.append(str(_record(opened, backend, sessions, made)))
    return {
        "bundle": str(opened.path),
        "kind": opened.kind,
        "precision": opened.precision,
        "checks": [check.to_json() for check in checks],
        "passed": all(check.passed for check in checks),
        "images": len(opened.reference()[IMAGE]),
        "machine": environment(),
        "proofs": proofs,
    }


def replayed(bundle: Bundle, sessions: Sequence[Session], precision: str) -> list[Check]:
    """Runs a bundle's reference inputs and compares the results; closes the sessions.

    Args:
        bundle: The bundle.
        sessions: One for every graph, in their order.
        precision: What they compute in.
    """
    replay = _sam if bundle.kind == SAM_KIND else _segmenter
    try:
        return list(replay(bundle, bundle.reference(), sessions, precision))
    finally:
        for session in sessions:
            session.close()


def _record(bundle: Bundle, backend: str, sessions: Sequence[Session], checks: Sequence[Check]) -> Path:
    """Writes what engines did on this GPU."""
    machine = Machine.here(int(sessions[0].device.partition(":")[2] or 0))
    files: list[Path] = [cast("Any", session).file for session in sessions]
    used = {file.relative_to(bundle.path).as_posix(): sha256(file) for file in files}
    found = {"checks": [one.to_json() for one in checks], "passed": all(one.passed for one in checks)}
    return write_proof(bundle.origin, backend, machine.built_on(backend), used, found)


def _segmenter(
    bundle: Bundle, arrays: Mapping[str, Array], sessions: Sequence[Session], precision: str
) -> Iterator[Check]:
    (session,), images, name = sessions, arrays[IMAGE], bundle.outputs[0].name
    limit = bundle.limit("label_agreement", precision)
    labels = run_batched(session, images, BATCH)[name]
    same = session.run({session.inputs[0].name: np.repeat(images[:1], 2, axis=0)})[name]
    yield Check(session.backend, "labels equal", label_agreement(labels, arrays[name]), limit)
    yield Check(session.backend, "equal rows stay equal", label_agreement(same[1], same[0]), 1.0)


def _sam(
    bundle: Bundle, arrays: Mapping[str, Array], sessions: Sequence[Session], precision: str
) -> Iterator[Check]:
    encoder, decoder = sessions
    rows = [
        encoder.run({spec.name: arrays[spec.name][i : i + 1] for spec in encoder.inputs})[EMBEDDINGS]
        for i in range(len(arrays[IMAGE]))
    ]
    feeds = {spec.name: arrays[spec.name] for spec in decoder.inputs}
    masks = decoder.run({**feeds, EMBEDDINGS: np.concatenate(rows)})[MASKS]
    overall, overlaps, sizable = mask_overlaps(masks, arrays[MASKS], arrays[SCORES])
    yield Check(encoder.backend, "mask IoU", overall, bundle.limit("mask_iou", precision))
    if sizable.any():
        worst = float(overlaps[sizable].min())
        yield Check(encoder.backend, "mask IoU, worst", worst, bundle.limit("worst_mask_iou", precision))
