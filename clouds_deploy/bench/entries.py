"""A backend's line in a report: its speed, and beside it whether its results are right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clouds_deploy.backends.backends import BF16
from clouds_deploy.bench.timing import Timing, ratio

REFERENCE = "torch"


def judge(value: float, limit: float, name: str, live: bool) -> dict[str, Any]:
    """How far a backend agrees with PyTorch, and whether that is enough.

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
    """Floating-point operations of a call; None for bundles of earlier versions, which lack them.

    Args:
        facts: A bundle's.
        times: Rows of the call, images or prompts.
        part: Of a SAM: `encoder` or `decoder`.
    """
    counted = facts.get("flops")
    counted = counted.get(part) if part is not None and counted is not None else counted
    return None if counted is None else float(sum(counted.values())) * times


def gather(
    timings: Mapping[str, Timing],
    agreements: Mapping[str, Mapping[str, Any]],
    devices: Mapping[str, str],
    batch: int,
    operations: float | None,
    peak: Mapping[str, float],
) -> list[dict[str, Any]]:
    """The lines of a graph's table.

    Args:
        timings: Of each backend.
        agreements: What `judge` gave for each.
        devices: Where each ran.
        batch: Rows of a call.
        operations: Floating-point operations of a call, as the graph counts them.
        peak: See `machine.matmul_peak`.

    Returns:
        Per backend: `backend`, `device`, `Timing.to_json`, `images_per_second`, what `judge` gave, `speedup`
        over PyTorch eager on the same device with its interval, `gflops` a second and `peak_share` of what a
        matrix product of the same type reaches on this CPU, `round_ms`, `peak_mib` (None).
    """
    lines = []
    for name, timing in timings.items():
        entry: dict[str, Any] = {"backend": name, "device": devices[name]} | timing.to_json()
        entry["images_per_second"] = 1000 * batch / entry["p50_ms"]
        entry |= agreements[name]
        entry["speedup"] = entry["speedup_low"] = entry["speedup_high"] = None
        if devices.get(REFERENCE) == devices[name] and REFERENCE in timings:
            found = ratio(timings[REFERENCE], timing)
            entry |= {"speedup": found.value, "speedup_low": found.low, "speedup_high": found.high}
        entry["speedup_shown"] = speedup_shown(entry)
        entry["gflops"] = None if operations is None else operations / entry["p50_ms"] / 1e6
        most = peak.get("bfloat16" if name == BF16 else "float32") if on_cpu(entry) else None
        entry["peak_share"] = None if entry["gflops"] is None or most is None else entry["gflops"] / most
        entry["round_ms"] = [float(v) for v in timing.rounds]
        entry["peak_mib"] = None
        lines.append(entry)
    return lines


def on_cpu(entry: Mapping[str, Any]) -> bool:
    """Whether a backend ran on the CPU, whatever it calls it."""
    return "cpu" in str(entry.get("device", "cpu")).lower()


def named(entry: Mapping[str, Any]) -> str:
    """A backend's name in reports, with its device unless that is the CPU."""
    return str(entry["backend"]) if on_cpu(entry) else f"{entry['backend']} on {entry['device']}"


def speedup_shown(entry: Mapping[str, Any]) -> str:
    """The speed-up as text, marked where the results are wrong."""
    if entry["speedup"] is None:
        return "-"
    if entry["backend"] == REFERENCE:
        return "1"
    shown = f"{entry['speedup']:.2f} ({entry['speedup_low']:.2f}-{entry['speedup_high']:.2f})"
    return shown if entry["passed"] else f"{shown} RESULTS DIFFER"
