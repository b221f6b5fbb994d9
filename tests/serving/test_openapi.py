"""schemathesis over `/openapi.json` against a live server: no undocumented status, none of 500 and above."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.live import live

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,unsupported_method,allow_header_conformance"
)


@pytest.mark.parametrize(
    "examples", [pytest.param(4, id="short"), pytest.param(100, marks=pytest.mark.slow, id="long")]
)
def test_what_is_served_is_what_is_described(small_bundle: Path, tmp_path: Path, examples: int) -> None:
    """The short run leaves out the paths with a version, which are the same again."""
    pytest.importorskip("schemathesis")
    tool = Path(sys.executable).with_name("schemathesis")
    with live(small_bundle) as running:
        words = (
            "--phases",
            "examples,coverage,fuzzing",
            "--checks",
            CHECKS,
            "--max-examples",
            str(examples),
            "--warnings",
            "off",
        )
        short = ("--exclude-path-regex", "versions") if examples < 10 else ()
        done = subprocess.run(
            [tool, "run", f"{running.address}/openapi.json", *words, *short, "--generation-deterministic"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "No issues found" in done.stdout
        assert running.gate.tally.accepted > 100
