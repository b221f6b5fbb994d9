"""The short form of benchmarks/serve_attack.py: all attacks at once, beside honest clients."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.serve_attack import measure


@pytest.mark.slow
def test_honest_clients_do_not_notice(small_bundle: Path, tmp_path: Path) -> None:
    """A tenth of the connections for some seconds; the latency is measured by the long form."""
    made = measure(small_bundle, tmp_path, sam="none", clients=4, seconds=3.0, scale=0.1, note=lambda _: None)
    assert made["beside"]["good"] > 4
    assert not made["beside"]["good_failed"]
    assert made["after"] == 200
    assert made["exit_code"] == 0
    assert made["tally"]["accepted"] == made["tally"]["answered"]
    assert made["log_bytes"] < 20_000
    assert made["beside"]["memory_mib"]["most"] < 1500
    kinds = made["attackers"]
    assert set(kinds) >= {"half headers", "slow bodies", "flood of GETs", "outputs", "images", "boards"}
    answered = {status for one in kinds.values() for status in one if status.isdigit()}
    assert not any(status.startswith("5") for status in answered)
    assert "400" in kinds["outputs"] or "200" in kinds["outputs"]
