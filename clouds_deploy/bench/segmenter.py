"""A segmenter's graph on every backend, against eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import BF16, open_session
from clouds_deploy.backends.session import Session
from clouds_deploy.bench.entries import REFERENCE, flops, judge
from clouds_deploy.bench.graph import announce, describe, runner, time_graph
from clouds_deploy.bench.machine import peak_memory
from clouds_deploy.bench.plan import Plan, repeated
from clouds_deploy.bench.scaling import scale
from clouds_deploy.bundles.bundle import Bundle
from clouds_deploy.inference.agreement import label_agreement, run_batched
from clouds_deploy.models.clouds.names import INPUT, LABELS


def bench_segmenter(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """Times a segmenter; its labels are compared with PyTorch's, or with those packed with the bundle.

    Args:
        bundle: The bundle.
        plan: How to time.

    Returns:
        See `graph.describe`; with `scaling` where the plan asks for it.

    Raises:
        CloudsError: A backend is not installed or cannot run.
    """
    packed = bundle.reference()
    images, batch = packed[INPUT], plan.batch
    with ExitStack() as stack:
        sessions: dict[str, Session] = {}
        for name in plan.suite.backends:
            session = open_session(bundle, name, batch=batch, device=plan.device_of(name))
            stack.callback(session.close)
            sessions[name] = session
        labels = {name: run_batched(one, images, batch)[LABELS] for name, one in sessions.items()}
        live = REFERENCE in labels
        truth = labels[REFERENCE] if live else packed[LABELS]
        agreements = {
            name: judge(
                label_agreement(found, truth),
                bundle.limit("label_agreement", "bf16" if name == BF16 else "fp32"),
                name,
                live,
            )
            for name, found in labels.items()
        }
        runners = {name: runner(session) for name, session in sessions.items()}
        announce(bundle, runners, plan)
        feeds, operations = {INPUT: repeated(images, batch)}, flops(bundle.facts, batch)
        results = time_graph(runners, feeds, batch, agreements, operations, plan, labels=LABELS)
    if plan.suite.memory:
        for entry in results:
            device = plan.device_of(entry["backend"])
            entry["peak_mib"] = peak_memory(bundle.path, entry["backend"], batch, device)
    shape = f"{batch}x{bundle.height}x{bundle.width}"
    found = describe(bundle, bundle.path.name, shape, "labels equal", results, len(images))
    found["classes_seen"] = len(np.unique(packed[LABELS]))
    if plan.suite.scaling:
        found["scaling"] = _scale(bundle, plan)
    return found


def _scale(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """Milliseconds against the batch, the graph opened for each; see `scale`."""
    images = bundle.reference()[INPUT]
    opened: dict[str, Session] = {}

    def make(name: str, size: int) -> Callable[[], object]:
        if name in opened:
            opened.pop(name).close()
        session = opened[name] = open_session(bundle, name, batch=size, device=plan.device_of(name))
        return partial(session.run, {INPUT: repeated(images, size)})

    try:
        calls = {name: partial(make, name) for name in plan.suite.backends}
        return scale("batch", plan.suite.scaling, calls, plan)
    finally:
        for session in opened.values():
            session.close()
