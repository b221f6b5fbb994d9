"""One graph on every backend: timed interleaved, its parts told apart, described for the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from clouds_deploy.backends.session import Session
from clouds_deploy.bench.entries import gather
from clouds_deploy.bench.plan import Plan
from clouds_deploy.bench.stages import time_stages
from clouds_deploy.bench.timing import measure
from clouds_deploy.bundles.bundle import Bundle
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.console import busy, say, warn

Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Runner:
    """A graph on a backend.

    Attributes:
        run: Inputs to outputs, by name.
        device: Where it computes.
        session: The session; None of PyTorch's own modules.
    """

    run: Callable[[Feeds], dict[str, Array]]
    device: str
    session: Session | None = None


def runner(session: Session) -> Runner:
    """A session as a runner."""
    return Runner(session.run, session.device, session)


def announce(bundle: Bundle, runners: Mapping[str, Runner], plan: Plan) -> None:
    """Prints what is about to be timed, and where."""
    shown = ", ".join(f"{name} on {one.device}" for name, one in runners.items())
    say(f"  bench        {bundle.path.name}: about {plan.suite.seconds:g} s each of {shown}")


def time_graph(
    runners: Mapping[str, Runner],
    feeds: Feeds,
    rows: int,
    agreements: Mapping[str, Mapping[str, Any]],
    operations: float | None,
    plan: Plan,
    *,
    parts: bool = True,
    labels: str | None = None,
) -> list[dict[str, Any]]:
    """Times a graph on every backend, interleaved.

    Args:
        runners: The backends.
        feeds: The inputs of a call.
        rows: Images or prompts of a call.
        agreements: What `judge` gave for each backend.
        operations: Floating-point operations of a call.
        plan: How to time.
        parts: Whether device, transfers and files are timed apart, where the plan asks for it.
        labels: See `time_stages`.

    Returns:
        What `gather` gives, and the parts.
    """
    with busy(f"timing {', '.join(runners)}, interleaved"):
        candidates = {name: partial(one.run, feeds) for name, one in runners.items()}
        timings = measure(candidates, rounds=plan.suite.rounds, seconds=plan.suite.seconds)
    devices = {name: one.device for name, one in runners.items()}
    results = gather(timings, agreements, devices, rows, operations, plan.peak)
    if parts and plan.suite.stages:
        sessions = {name: one.session for name, one in runners.items() if one.session is not None}
        with busy("timing device, transfers and files apart"):
            apart = time_stages(sessions, feeds, plan, labels)
        results = [entry | apart.get(entry["backend"], {}) for entry in results]
    return results


def describe(
    bundle: Bundle, name: str, shape: str, compared: str, results: Sequence[dict[str, Any]], images: int
) -> dict[str, Any]:
    """A graph in results.json, with a warning for every backend whose results are wrong.

    Args:
        bundle: Its bundle.
        name: What the report calls it.
        shape: Of a call's input.
        compared: What the agreement is of.
        results: The backends' entries.
        images: How many images were compared.
    """
    for entry in results:
        if not entry["passed"]:
            warn(f"{entry['backend']} disagrees with PyTorch on {name}: {entry['agreement_shown']}")
    return {
        "name": name,
        "compared": compared,
        "path": str(bundle.path),
        "shape": shape,
        "height": bundle.height,
        "width": bundle.width,
        "nodes": bundle.facts.get("nodes"),
        "graph_mib": bundle.facts.get("bytes", 0) / 2**20,
        "precision": bundle.precision,
        "backbone_weights": bundle.weights,
        "random_weights": bool(bundle.facts["random_weights"]),
        "failed_gates": [gate for gate in bundle.gates() if not gate["passed"]],
        "images": images,
        "classes_seen": None,
        "results": results,
    }
