"""Proofs: that a bundle's engine was run on a GPU and agreed, kept beside what is sealed.

An engine is *built* where its builder is, *run* once its self-test has run on a GPU, and *proven* there if it
passed. The record is `proofs/<GPU>-<backend>.json` in the bundle's folder, or in `NAME.proofs` beside a
`NAME.clouds`; the bundle's own files stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import PROOFS, environment, read_json, write_json
from clouds_deploy.bundles.packed import SUFFIX
from clouds_deploy.errors import CloudsError

NOT_RUN = "built, not run"


def proof_folder(origin: Path) -> Path:
    """Folder of a bundle's proofs.

    Args:
        origin: The bundle as the user names it: a folder, or a `.clouds` file.
    """
    return origin.with_suffix(".proofs") if origin.suffix == SUFFIX and origin.is_file() else origin / PROOFS


def write_proof(
    origin: Path, backend: str, gpu: Mapping[str, Any], engines: Mapping[str, str], checks: Mapping[str, Any]
) -> Path:
    """Records a self-test of engines on a GPU; returns the file.

    Args:
        origin: See `proof_folder`.
        backend: What ran them.
        gpu: `Machine.built_on` of the machine.
        engines: sha256 of each engine by its file.
        checks: `checks` and `passed` of the self-test.
    """
    name = re.sub(r"\W+", "_", str(gpu.get("gpu") or "GPU")).strip("_")
    path = proof_folder(origin) / f"{name}-{backend}.json"
    path.parent.mkdir(exist_ok=True)
    date = datetime.now(timezone.utc).isoformat(timespec="seconds")
    write_json(
        path,
        {
            "date": date,
            "backend": backend,
            **gpu,
            "engines": dict(engines),
            **checks,
            "machine": environment(),
        },
    )
    return path


def state(origin: Path, engine: Mapping[str, Any], gpu: str | None) -> str:
    """Where an engine was run: `built, not run`, or `proven on GPU`, or `FAILED on GPU`.

    Args:
        origin: See `proof_folder`.
        engine: Its entry in `bundle.json`.
        gpu: Only this GPU counts; None takes any.
    """
    own = engine.get("run_on")
    if own and gpu in (None, own.get("gpu")):
        return f"proven on {own.get('gpu')}"
    for path in sorted(proof_folder(origin).glob("*.json")):
        try:
            proof = read_json(path)
            same = proof["engines"].get(engine["file"]) == engine["sha256"]
            where, passed = proof["gpu"], proof["passed"]
        except (CloudsError, KeyError, TypeError, AttributeError):
            continue  # not a proof of ours
        if same and gpu in (None, where):
            return f"{'proven' if passed is True else 'FAILED'} on {where}"
    return NOT_RUN
