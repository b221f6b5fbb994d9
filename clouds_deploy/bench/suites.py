"""The verb `bench`: every backend on the same images in the same run, agreement beside each speed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import (
    MANIFEST,
    atomic_directory,
    environment,
    sha256,
    write_json,
    write_manifest,
    write_text,
)
from clouds_deploy.backends.backends import BACKENDS
from clouds_deploy.bench import growth
from clouds_deploy.bench.against import compare, read_results
from clouds_deploy.bench.machine import load, matmul_peak, threads
from clouds_deploy.bench.plan import Plan, common_device
from clouds_deploy.bench.report import html, markdown
from clouds_deploy.bench.sam import bench_sam
from clouds_deploy.bench.segmenter import bench_segmenter
from clouds_deploy.bundles.bundle import SAM_KIND, Bundle, open_bundle
from clouds_deploy.config.bench import BenchOptions, Suite
from clouds_deploy.config.section import make_options
from clouds_deploy.console import busy, say
from clouds_deploy.errors import CloudsError, install, installed, nearest

KIND = "bench"
GROWTHS: dict[str, Callable[[Bundle, Plan], dict[str, Any]]] = growth.SEGMENTER | growth.SAM


def bench(bundles: Sequence[str | Path], *, out: str | Path, **options: Any) -> dict[str, Any]:
    """Times backends against each other and reports beside each speed whether its results are right.

    Args:
        bundles: Bundles; their manifests must hold.
        out: The directory to make: results.json, summary.md, report.html, reproduce.sh.
        options: See `clouds_deploy.config.bench.BenchOptions`.

    Returns:
        What results.json holds: `machine`, `settings`, `bundles` (each `name`, `shape`, `results`),
        `against` where asked for, and `out`, `report`.

    Raises:
        CloudsError: A bundle does not hold; a backend is unknown, not installed or cannot run.
    """
    chosen = make_options(BenchOptions, options)
    suite = _check_backends(chosen)
    if not bundles:
        raise CloudsError("no bundle was named", "name the path of at least one bundle")
    before = None if chosen.against is None else read_results(chosen.against)
    out = Path(out)
    device = chosen.device if chosen.mixed_devices else common_device(chosen.device, suite.backends)
    with atomic_directory(out) as directory:
        opened = [_open(Path(path), suite, chosen.suite) for path in bundles]
        with busy("measuring what a matrix product reaches here"):
            peak = matmul_peak()
        plan = Plan(suite, chosen.batch, peak, device, chosen.weights)
        found: list[dict[str, Any]] = []
        for one in opened:
            found += bench_sam(one, plan) if one.kind == SAM_KIND else [bench_segmenter(one, plan)]
            found[-1]["growth"] = [GROWTHS[name](one, plan) for name in suite.growth]
        results: dict[str, Any] = {
            "machine": environment() | {"threads": threads(), "load": load(), "peak_gflops": peak},
            "settings": {
                "suite": chosen.suite,
                "batch": chosen.batch,
                "seconds": suite.seconds,
                "rounds": suite.rounds,
                "backends": list(suite.backends),
                "device": device,
            },
            "command": _command([one.path for one in opened], chosen, suite, out),
            "bundles": found,
        }
        if before is not None:
            results["against"] = compare(before, results) | {"file": str(chosen.against)}
        write_json(directory / "results.json", results)
        write_text(directory / "summary.md", markdown(results))
        write_text(directory / "report.html", html(results))
        script = "#!/bin/sh\n# Repeats this measurement on the same bundles, from the same folder.\nset -eu\n"
        write_text(directory / "reproduce.sh", f"{script}{results['command']}\n")
        (directory / "reproduce.sh").chmod(0o755)
        inputs = {str(b.path): sha256(b.path / MANIFEST) for b in opened}
        random = any(b["random_weights"] for b in results["bundles"])
        write_manifest(directory, KIND, inputs=inputs, settings=results["settings"], random_weights=random)
    return results | {"out": str(out), "report": str(out / "report.html")}


def _check_backends(chosen: BenchOptions) -> Suite:
    """The suite without repeated backends and, unless they were named, without those not installed."""
    suite = chosen.chosen()
    names = tuple(dict.fromkeys(suite.backends))
    for name in names:
        if name not in BACKENDS:
            raise CloudsError(f"there is no backend `{name}`", nearest(name, BACKENDS))
    if chosen.backends is None:
        missing = [name for name in names if not installed(name.partition("-")[0])]
        names = tuple(name for name in names if name not in missing)
        if not names:
            raise CloudsError("no backend is installed", install("cpu"))
        if missing:
            say(f"  bench        without {', '.join(missing)}, not installed here")
    return replace(suite, backends=names)


def _open(path: Path, suite: Suite, name: str) -> Bundle:
    bundle = open_bundle(path)
    kind = "sam" if bundle.kind == SAM_KIND else "segmenter"
    if kind not in suite.models:
        raise CloudsError(f"the suite `{name}` takes no bundle of a {kind}: {path}", "leave --suite out")
    return bundle


def _command(bundles: Sequence[Path], chosen: BenchOptions, suite: Suite, out: Path) -> str:
    words = ["clouds-deploy", "bench", *(str(path) for path in bundles), "--out", f"{out}-again"]
    words += ["--suite", chosen.suite]
    for name in suite.backends:
        words += ["--backend", name]
    words += ["--batch", str(chosen.batch), "--seconds", f"{suite.seconds:g}"]
    words += () if chosen.device == "auto" else ("--device", chosen.device)
    return shlex.join([*words, *(("--mixed-devices",) if chosen.mixed_devices else ())])
