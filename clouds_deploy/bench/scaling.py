"""How cost grows: milliseconds against batch or prompts, with the exponent that fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clouds_deploy.bench.plan import Plan
from clouds_deploy.bench.timing import measure
from clouds_deploy.console import busy


def fit_exponent(sizes: Sequence[float], milliseconds: Sequence[float]) -> float | None:
    """The exponent b of ms = a * size^b, fitted by least squares on logarithms.

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
    """Times backends at several sizes, interleaved at each.

    Args:
        what: What grows, such as `batch`.
        sizes: The sizes.
        calls: By backend, a function that makes a call of a size.
        plan: How to time.

    Returns:
        `what`, `sizes`, `p50_ms` by backend, `exponent` by backend.
    """
    found: dict[str, list[float]] = {name: [] for name in calls}
    for size in sizes:
        with busy(f"timing {what} {size}"):
            candidates = {name: make(size) for name, make in calls.items()}
            timings = measure(candidates, warmup=1, rounds=3, seconds=plan.suite.seconds / max(len(sizes), 1))
        for name, timing in timings.items():
            found[name].append(timing.percentile(50))
    return {
        "what": what,
        "sizes": list(sizes),
        "p50_ms": found,
        "exponent": {name: fit_exponent(sizes, taken) for name, taken in found.items()},
    }
