"""`bench`: every backend on the same images in the same run, agreement beside each speed."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import (
    MANIFEST,
    atomic_directory,
    environment,
    sha256,
    write_json,
    write_manifest,
    write_text,
)
from clouds_deploy.bench.memory import peak_memory
from clouds_deploy.bench.report import html, markdown
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.console import busy, say, warn
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.models.graph import LABELS
from clouds_deploy.runtime.agreement import label_agreement, run_batched
from clouds_deploy.runtime.backends import BACKENDS, open_session
from clouds_deploy.runtime.bundle import Bundle, open_bundle
from clouds_deploy.runtime.session import Array, Session

KIND = "bench"
REFERENCE = "torch"


def bench(
    bundles: Sequence[Path],
    *,
    out: Path,
    backends: Sequence[str] = ("torch", "onnxruntime", "openvino"),
    batch: int = 1,
    seconds: float = 5.0,
    rounds: int = 10,
    memory: bool = True,
) -> dict[str, Any]:
    """Time backends against each other and say beside each speed whether its labels are right.

    Args:
        bundles: Bundles; their manifests must hold.
        out: The directory to make: results.json, summary.md, report.html, reproduce.sh.
        backends: Backends; `torch` is eager PyTorch, which ratios are taken against.
        batch: Images per call.
        seconds: About how long each backend is timed on each bundle.
        rounds: Turns the backends take.
        memory: Whether to find each backend's peak memory too, in a process of its own.

    Returns:
        What results.json holds: `machine`, `settings`, `bundles` (each `name`, `shape`, `results`), and
        `out`, `report`.

    Raises:
        CloudsError: A bundle does not hold; a backend is unknown, not installed or cannot run.
    """
    for backend in backends:
        if backend not in BACKENDS:
            raise CloudsError(f"there is no backend `{backend}`", nearest(backend, BACKENDS))
    if not bundles:
        raise CloudsError("no bundle was given", "give the path of at least one bundle")
    names = list(dict.fromkeys(backends))
    with atomic_directory(out) as directory:
        opened = [open_bundle(path) for path in bundles]
        results: dict[str, Any] = {
            "machine": environment() | {"threads": _threads(), "load": _load()},
            "settings": {"batch": batch, "seconds": seconds, "rounds": rounds, "backends": names},
            "command": _command(bundles, names, batch, seconds, out),
            "bundles": [_bench_one(b, names, batch, seconds, rounds, memory) for b in opened],
        }
        write_json(directory / "results.json", results)
        write_text(directory / "summary.md", markdown(results))
        write_text(directory / "report.html", html(results))
        script = "#!/bin/sh\n# Repeats this measurement; the bundles must lie where they did.\nset -eu\n"
        write_text(directory / "reproduce.sh", f"{script}{results['command']}\n")
        (directory / "reproduce.sh").chmod(0o755)
        inputs = {str(b.path): sha256(b.path / MANIFEST) for b in opened}
        random = any(b["random_weights"] for b in results["bundles"])
        write_manifest(directory, KIND, inputs=inputs, settings=results["settings"], random_weights=random)
    return results | {"out": str(out), "report": str(out / "report.html")}


def _bench_one(
    bundle: Bundle, names: list[str], batch: int, seconds: float, rounds: int, memory: bool
) -> dict[str, Any]:
    images, packed = bundle.reference()
    fed = np.ascontiguousarray(np.resize(images, (batch, *images.shape[1:])))
    sessions: dict[str, Session] = {}
    try:
        for name in names:
            sessions[name] = open_session(bundle, name)
        truth = run_batched(sessions[REFERENCE], images, batch)[LABELS] if REFERENCE in sessions else None
        limit = bundle.label_agreement
        agreements: dict[str, dict[str, Any]] = {}
        for name, session in sessions.items():
            labels = run_batched(session, images, batch)[LABELS]
            expected = packed[LABELS] if truth is None else truth
            agreements[name] = _agreement(labels, expected, name, limit, truth is not None)
        say(f"  bench        {bundle.path.name}: {len(names)} backends, about {seconds:g} s each")
        candidates = {name: _call(session, fed) for name, session in sessions.items()}
        with busy(f"timing {', '.join(names)} in turns"):
            timings = measure(candidates, rounds=rounds, seconds=seconds)
        devices = {name: session.device for name, session in sessions.items()}
    finally:
        for session in sessions.values():
            session.close()
    results = []
    for name in names:
        entry: dict[str, Any] = {"backend": name, "device": devices[name]} | timings[name].to_json()
        entry["images_per_second"] = 1000 * batch / entry["p50_ms"]
        entry |= agreements[name]
        entry["speedup"] = entry["speedup_low"] = entry["speedup_high"] = None
        if REFERENCE in timings:
            found = ratio(timings[REFERENCE], timings[name])
            entry |= {"speedup": found.value, "speedup_low": found.low, "speedup_high": found.high}
        entry["speedup_shown"] = _speedup_shown(entry)
        entry["round_ms"] = [float(v) for v in timings[name].rounds]
        entry["peak_mib"] = peak_memory(bundle.path, name, batch) if memory else None
        if not entry["passed"]:
            warn(f"{name} disagrees with PyTorch on {bundle.path.name}: {entry['agreement_shown']}")
        results.append(entry)
    failed = [gate for gate in bundle.gates() if not gate["passed"]]
    return {
        "name": bundle.path.name,
        "path": str(bundle.path),
        "shape": f"{batch}x{bundle.height}x{bundle.width}",
        "height": bundle.height,
        "width": bundle.width,
        "nodes": bundle.facts.get("nodes"),
        "graph_mib": bundle.facts.get("bytes", 0) / 2**20,
        "precision": bundle.precision,
        "backbone_weights": bundle.backbone_weights,
        "random_weights": bool(bundle.facts["random_weights"]),
        "failed_gates": failed,
        "images": len(images),
        "classes_seen": len(np.unique(packed[LABELS])),
        "results": results,
    }


def _call(session: Session, images: Array) -> Callable[[], object]:
    feeds = {session.inputs[0].name: images}
    return lambda: session.run(feeds)


def _agreement(labels: Array, expected: Array, name: str, limit: float, live: bool) -> dict[str, Any]:
    value = label_agreement(labels, expected)
    shown = "reference" if live and name == REFERENCE else f"{100 * value:.4f} %"
    passed = value >= limit
    return {
        "agreement": value,
        "agreement_limit": limit,
        "agreement_reference": "torch, same run" if live else "packed with the bundle",
        "passed": passed,
        "agreement_shown": shown if passed else f"{shown} FAILED",
    }


def _speedup_shown(entry: dict[str, Any]) -> str:
    """Print no speed-up that wrong labels bought."""
    if entry["speedup"] is None:
        return "-"
    if entry["backend"] == REFERENCE:
        return "1"
    shown = f"{entry['speedup']:.2f} ({entry['speedup_low']:.2f}-{entry['speedup_high']:.2f})"
    return shown if entry["passed"] else f"{shown} LABELS DIFFER"


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _load() -> list[float] | None:
    """How busy the machine was at the start: one minute's, five and fifteen minutes' load."""
    return [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _command(bundles: Sequence[Path], names: Sequence[str], batch: int, seconds: float, out: Path) -> str:
    words = ["clouds-deploy", "bench", *(str(path) for path in bundles), "--out", f"{out}-again"]
    for name in names:
        words += ["--backend", name]
    return shlex.join([*words, "--batch", str(batch), "--seconds", f"{seconds:g}"])
