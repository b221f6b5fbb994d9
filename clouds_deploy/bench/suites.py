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
from clouds_deploy.backends.backends import BACKENDS, BF16, open_session
from clouds_deploy.backends.session import Session
from clouds_deploy.bench.against import compare, read_results
from clouds_deploy.bench.entries import flops, gather, judge, say_wrong
from clouds_deploy.bench.growth import SAM, SEGMENTER
from clouds_deploy.bench.memory import peak_memory
from clouds_deploy.bench.peak import matmul_peak
from clouds_deploy.bench.plan import Plan, repeated
from clouds_deploy.bench.presets import choose
from clouds_deploy.bench.report import html, markdown
from clouds_deploy.bench.sam_suite import bench_sam
from clouds_deploy.bench.scaling import scale_segmenter
from clouds_deploy.bench.stages import time_stages
from clouds_deploy.bench.timing import measure
from clouds_deploy.bundles.bundle import SAM_KIND, Bundle, open_bundle
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.console import busy, say
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.inference.agreement import label_agreement, run_batched
from clouds_deploy.models.clouds.names import INPUT, LABELS

KIND = "bench"
REFERENCE = "torch"


def bench(
    bundles: Sequence[str | Path],
    *,
    out: str | Path,
    suite: str = "default",
    backends: Sequence[str] | None = None,
    batch: int = 1,
    seconds: float | None = None,
    rounds: int | None = None,
    memory: bool | None = None,
    against: str | Path | None = None,
    scaling: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    stages: bool | None = None,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Time backends against each other and say beside each speed whether its labels are right.

    Args:
        bundles: Bundles; their manifests must hold.
        out: The directory to make: results.json, summary.md, report.html, reproduce.sh.
        suite: A name in `presets.SUITES`, whose settings stand in for those that are None.
        backends: Backends; `torch` is eager PyTorch, which ratios are taken against.
        batch: Images per call.
        seconds: About how long each backend is timed on each bundle.
        rounds: Turns the backends take.
        memory: Whether to find each backend's peak memory too, in a process of its own; segmenters only.
        against: An earlier results.json to compare with.
        scaling: Batches (for a SAM's decoder: prompts) to time too, for how cost grows.
        prompts: Prompts a call of a SAM's decoder, each timed.
        stages: Whether to time device, transfers and files apart too.
        weights: A SAM's weight file, for PyTorch, where its bundle was made from one.

    Returns:
        What results.json holds: `machine`, `settings`, `bundles` (each `name`, `shape`, `results`),
        `against` where asked for, and `out`, `report`.

    Raises:
        CloudsError: A bundle does not hold; a backend is unknown, not installed or cannot run.
    """
    chosen = choose(
        suite,
        {
            "backends": backends,
            "seconds": seconds,
            "rounds": rounds,
            "memory": memory,
            "scaling": scaling,
            "prompts": prompts,
            "stages": stages,
        },
    )
    names = list(dict.fromkeys(chosen["backends"]))
    seconds, rounds = float(chosen["seconds"]), int(chosen["rounds"])
    for backend in names:
        if backend not in BACKENDS:
            raise CloudsError(f"there is no backend `{backend}`", nearest(backend, BACKENDS))
    if not bundles:
        raise CloudsError("no bundle was given", "give the path of at least one bundle")
    before = None if against is None else read_results(Path(against))
    out, growths = Path(out), SEGMENTER | SAM
    with atomic_directory(out) as directory:
        opened = [_open(path, chosen["models"], suite) for path in map(Path, bundles)]
        with busy("measuring what a matrix product reaches here"):
            peak = matmul_peak()
        counts = tuple(chosen["scaling"]), tuple(chosen["prompts"])
        plan = Plan(names, batch, seconds, rounds, peak, *counts, bool(chosen["stages"]))
        found: list[dict[str, Any]] = []
        for one in opened:
            if one.kind == SAM_KIND:
                found += bench_sam(one, plan, weights)
            else:
                found.append(_bench_one(one, plan, chosen["memory"]))
                if plan.scaling:
                    found[-1]["scaling"] = scale_segmenter(one, plan)
            found[-1]["growth"] = [growths[name](one, plan) for name in chosen["growth"] if name in growths]
        results: dict[str, Any] = {
            "machine": environment() | {"threads": _threads(), "load": _load(), "peak_gflops": peak},
            "settings": {
                "suite": suite,
                "batch": batch,
                "seconds": seconds,
                "rounds": rounds,
                "backends": names,
            },
            "command": _command([one.path for one in opened], suite, names, batch, seconds, out),
            "bundles": found,
        }
        if before is not None:
            results["against"] = compare(before, results) | {"file": str(against)}
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


def _open(path: Path, models: Sequence[str], suite: str) -> Bundle:
    bundle = open_bundle(path)
    kind = "sam" if bundle.kind == SAM_KIND else "segmenter"
    if kind not in models:
        raise CloudsError(f"the suite `{suite}` takes no bundle of a {kind}: {path}", "leave --suite out")
    return bundle


def _bench_one(bundle: Bundle, plan: Plan, memory: bool) -> dict[str, Any]:
    names, batch = plan.names, plan.batch
    packed = bundle.reference()
    images = packed[INPUT]
    fed = repeated(images, batch)
    sessions: dict[str, Session] = {}
    try:
        for name in names:
            sessions[name] = open_session(bundle, name, batch=batch)
        truth = run_batched(sessions[REFERENCE], images, batch)[LABELS] if REFERENCE in sessions else None
        limit = bundle.label_agreement
        agreements: dict[str, dict[str, Any]] = {}
        for name, session in sessions.items():
            labels = run_batched(session, images, batch)[LABELS]
            expected = packed[LABELS] if truth is None else truth
            value = label_agreement(labels, expected)
            least = limit if name != BF16 else min(limit, bundle.recipe.export.fp16.label_agreement)
            agreements[name] = judge(value, least, name, truth is not None)
        say(f"  bench        {bundle.path.name}: {len(names)} backends, about {plan.seconds:g} s each")
        candidates = {name: _call(session, fed) for name, session in sessions.items()}
        with busy(f"timing {', '.join(names)} in turns"):
            timings = measure(candidates, rounds=plan.rounds, seconds=plan.seconds)
        devices = {name: session.device for name, session in sessions.items()}
        apart = {}
        if plan.stages:
            feeds = {name: {session.inputs[0].name: fed} for name, session in sessions.items()}
            with busy("telling device, transfers and files apart"):
                apart = time_stages(sessions, feeds, plan, LABELS)
    finally:
        for session in sessions.values():
            session.close()
    speeds = {name: flops(bundle.facts, batch) for name in names}
    results = gather(names, timings, agreements, devices, batch, speeds, plan.peak)
    for entry in results:
        entry |= apart.get(entry["backend"], {})
        entry["peak_mib"] = peak_memory(bundle.path, entry["backend"], batch) if memory else None
        if not entry["passed"]:
            say_wrong(entry, bundle.path.name)
    failed = [gate for gate in bundle.gates() if not gate["passed"]]
    return {
        "name": bundle.path.name,
        "compared": "labels equal",
        "path": str(bundle.path),
        "shape": f"{batch}x{bundle.height}x{bundle.width}",
        "height": bundle.height,
        "width": bundle.width,
        "nodes": bundle.facts.get("nodes"),
        "graph_mib": bundle.facts.get("bytes", 0) / 2**20,
        "precision": bundle.precision,
        "backbone_weights": bundle.weights,
        "random_weights": bool(bundle.facts["random_weights"]),
        "failed_gates": failed,
        "images": len(images),
        "classes_seen": len(np.unique(packed[LABELS])),
        "results": results,
    }


def _call(session: Session, images: Array) -> Callable[[], object]:
    feeds = {session.inputs[0].name: images}
    return lambda: session.run(feeds)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _load() -> list[float] | None:
    """How busy the machine was at the start: one minute's, five and fifteen minutes' load."""
    return [round(v, 2) for v in os.getloadavg()] if hasattr(os, "getloadavg") else None


def _command(
    bundles: Sequence[Path], suite: str, names: Sequence[str], batch: int, seconds: float, out: Path
) -> str:
    words = ["clouds-deploy", "bench", *(str(path) for path in bundles), "--out", f"{out}-again"]
    words += ["--suite", suite]
    for name in names:
        words += ["--backend", name]
    return shlex.join([*words, "--batch", str(batch), "--seconds", f"{seconds:g}"])
