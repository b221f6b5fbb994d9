"""How cost grows: milliseconds against batch or prompts, with the exponent that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import open_session
from clouds_deploy.backends.session import Session
from clouds_deploy.bench.plan import Plan, repeated
from clouds_deploy.bench.timing import measure
from clouds_deploy.bundles.bundle import Bundle
from clouds_deploy.console import busy
from clouds_deploy.models.clouds.names import INPUT


def fit_exponent(sizes: Sequence[float], milliseconds: Sequence[float]) -> float | None:
    """Fit ms = a * size^b by least squares on logarithms.

    Args:
        sizes: Positive.
        milliseconds: Positive, one for each.

    Returns:
        b; None for less than two sizes.
    """
    if len(set(sizes)) < 2:
        return None
    slope, _ = np.polyfit(np.log(sizes), np.log(milliseconds), 1)
    return float(slope)


def scale(
    what: str, sizes: Sequence[int], calls: Mapping[str, Callable[[int], Callable[[], object]]], plan: Plan
) -> dict[str, Any]:
    """Time backends at several sizes, in turns at each.

    Args:
        what: What grows, such as `batch`.
        sizes: The sizes.
        calls: By backend, what makes a call of a size.
        plan: How to time.

    Returns:
        `what`, `sizes`, `p50_ms` by backend, `exponent` by backend.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for size in sizes:
        with busy(f"timing {what} {size}"):
            candidates = {name: make(size) for name, make in calls.items()}
            timings = measure(candidates, warmup=1, rounds=3, seconds=plan.seconds / max(len(sizes), 1))
        for name, timing in timings.items():
            found[name].append(timing.percentile(50))
    return {
        "what": what,
        "sizes": list(sizes),
        "p50_ms": found,
        "exponent": {name: fit_exponent(sizes, taken) for name, taken in found.items()},
    }


def scale_segmenter(bundle: Bundle, plan: Plan) -> dict[str, Any]:
    """Time a segmenter against the batch, each opened for it; see `scale`."""
    images = bundle.reference()[INPUT]
    opened: dict[str, Session] = {}

    def make(name: str, size: int) -> Callable[[], object]:
        if name in opened:
            opened.pop(name).close()
        session = opened[name] = open_session(bundle, name, batch=size)
        fed = repeated(images, size)
        return lambda: session.run({session.inputs[0].name: fed})

    try:
        return scale("batch", plan.scaling, {name: partial(make, name) for name in plan.names}, plan)
    finally:
        for session in opened.values():
            session.close()
