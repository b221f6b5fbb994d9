"""`bench --against`: what became faster or slower since an earlier run, where that is significant."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import read_json
from clouds_deploy.bench.entries import REFERENCE, named
from clouds_deploy.errors import CloudsError

LEAST = 0.02
"""Smaller changes, as a share, count as none however sure."""


def read_results(path: Path) -> dict[str, Any]:
    """An earlier run's results, from its results.json or the folder that holds it.

    Raises:
        CloudsError: It is not there, or holds no results.
    """
    file = path / "results.json" if path.is_dir() else path
    if not file.is_file():
        raise CloudsError(f"there are no results in {path}", "name the results.json of an earlier bench")
    found = read_json(file)
    if not isinstance(found, dict) or not isinstance(found.get("bundles"), list):
        raise CloudsError(f"{file} holds no results of a bench", "name the results.json of an earlier bench")
    return found


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Compares two runs, backend by backend.

    Two runs see two machines, or one at two times. So where PyTorch ran in both, a backend's speed-ups over
    it are compared, each measured within its own run; otherwise the medians themselves.

    Args:
        before: An earlier run's results.
        after: This run's.

    Returns:
        `rows`, each with `bundle`, `shape`, `backend`, `change` (over 1 is faster), `low` and `high` (ends
        of the interval), `measure` (`speed-up` or `ms`) and `verdict` (`faster`, `slower`, `no significant
        change`); `slower`, how many; `missing`, what one of the two runs lacks.
    """
    old, new = _lines(before), _lines(after)
    rows = []
    for key in [key for key in new if key in old]:
        one, other = old[key], new[key]
        if other["backend"] == REFERENCE and len([k for k in new if k[:2] == key[:2]]) > 1:
            continue  # everything else is measured by it
        if one.get("speedup") and other.get("speedup") and other["backend"] != REFERENCE:
            what = "speed-up"
            change = other["speedup"] / one["speedup"]
            low = other["speedup_low"] / one["speedup_high"]
            high = other["speedup_high"] / one["speedup_low"]
        else:
            what = "ms"
            change = one["p50_ms"] / other["p50_ms"]
            low = min(one["round_ms"]) / max(other["round_ms"])
            high = max(one["round_ms"]) / min(other["round_ms"])
        verdict = "no significant change"
        if low > 1 + LEAST:
            verdict = "faster"
        elif high < 1 - LEAST:
            verdict = "slower"
        rows.append(
            {
                "bundle": key[0],
                "shape": key[1],
                "backend": key[2],
                "change": change,
                "low": low,
                "high": high,
                "measure": what,
                "verdict": verdict,
            }
        )
    missing = [" ".join(key) for key in sorted(old.keys() ^ new.keys())]
    return {"rows": rows, "slower": sum(r["verdict"] == "slower" for r in rows), "missing": missing}


def _lines(results: Mapping[str, Any]) -> dict[tuple[str, str, str], Mapping[str, Any]]:
    return {
        (bundle["name"], bundle["shape"], named(entry)): entry
        for bundle in results["bundles"]
        for entry in bundle["results"]
    }
