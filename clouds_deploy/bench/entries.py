"""One backend's line in a report: its speed, and beside it whether what it gave is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from clouds_deploy.backends.backends import BF16
from clouds_deploy.bench.timing import Timing, ratio
from clouds_deploy.console import warn

REFERENCE = "torch"


def judge(value: float, limit: float, name: str, live: bool) -> dict[str, Any]:
    """Say how far a backend agrees with PyTorch.

    Args:
        value: Its agreement, 0..1.
        limit: What it must reach.
        name: The backend.
        live: Whether PyTorch ran beside it; otherwise its results are those packed with the bundle.
    """
    shown = "reference" if live and name == REFERENCE else f"{100 * value:.4f} %"
    passed = value >= limit
    return {
        "agreement": value,
        "agreement_limit": limit,
        "agreement_reference": "torch, same run" if live else "packed with the bundle",
        "passed": passed,
        "agreement_shown": shown if passed else f"{shown} FAILED",
    }


def flops(facts: Mapping[str, Any], times: int, part: str | None = None) -> float | None:
    """Give the floating-point operations of a call; None for bundles of earlier versions, which lack them.

    Args:
        facts: A bundle's.
        times: Rows of the call, images or prompts.
        part: Of a SAM: `encoder` or `decoder`.
    """
    counted = facts.get("flops")
    counted = counted.get(part) if part is not None and counted is not None else counted
    return None if counted is None else float(sum(counted.values())) * times


def gather(
    names: Sequence[str],
    timings: Mapping[str, Timing],
    agreements: Mapping[str, Mapping[str, Any]],
    devices: Mapping[str, str],
    batch: int,
    operations: Mapping[str, float | None],
    peak: Mapping[str, float],
) -> list[dict[str, Any]]:
    """Make the lines of a graph's table.

    Args:
        names: The backends, in order.
        timings: Of each.
        agreements: What `judge` gave for each.
        devices: Where each ran.
        batch: Rows of a call.
        operations: Floating-point operations of a call, as the graph counts them.
        peak: See `peak.matmul_peak`.

    Returns:
        Per backend: `backend`, `device`, `Timing.to_json`, `images_per_second`, what `judge` gave, `speedup`
        over PyTorch eager with its interval, `gflops` a second and `peak_share` of what a matrix product of
        the same type reaches here, `round_ms`, `peak_mib` (None).
    """
    lines = []
    for name in names:
        entry: dict[str, Any] = {"backend": name, "device": devices[name]} | timings[name].to_json()
        entry["images_per_second"] = 1000 * batch / entry["p50_ms"]
        entry |= agreements[name]
        entry["speedup"] = entry["speedup_low"] = entry["speedup_high"] = None
        if REFERENCE in timings:
            found = ratio(timings[REFERENCE], timings[name])
            entry |= {"speedup": found.value, "speedup_low": found.low, "speedup_high": found.high}
        entry["speedup_shown"] = speedup_shown(entry)
        count = operations.get(name)
        entry["gflops"] = None if count is None else count / entry["p50_ms"] / 1e6
        most = peak["bfloat16" if name == BF16 else "float32"]
        entry["peak_share"] = None if entry["gflops"] is None else entry["gflops"] / most
        entry["round_ms"] = [float(v) for v in timings[name].rounds]
        entry["peak_mib"] = None
        lines.append(entry)
    return lines


def speedup_shown(entry: Mapping[str, Any]) -> str:
    """Print no speed-up that wrong results bought."""
    if entry["speedup"] is None:
        return "-"
    if entry["backend"] == REFERENCE:
        return "1"
    shown = f"{entry['speedup']:.2f} ({entry['speedup_low']:.2f}-{entry['speedup_high']:.2f})"
    return shown if entry["passed"] else f"{shown} RESULTS DIFFER"


def say_wrong(entry: Mapping[str, Any], name: str) -> None:
    """Warn of a backend whose results are not PyTorch's."""
    warn(f"{entry['backend']} disagrees with PyTorch on {name}: {entry['agreement_shown']}")
