"""Every door takes what is handed to it, or refuses it by its error, in bounded time and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clouds_deploy.bounded import BoundedFastLoader, BoundedLoader, load_yaml
from clouds_deploy.config.parse import parse
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from tests.documented import ROOT
from tests.fuzz.doors import DOORS

SECONDS = float(os.environ.get("CLOUDS_FUZZ_SECONDS", "30"))
"""Of each door in `make test-all`; `CLOUDS_FUZZ_SECONDS=600` is the ten-minute form."""
SHORT = 0.3
"""Of each door in `make test`, beside its whole inputs, which hold what was found before."""


def _fuzz(door: str, out: Path, seconds: float) -> None:
    command = [sys.executable, "-m", "tests.fuzz", door, str(out), "--seconds", str(seconds)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=seconds + 300, check=False
    )
    faults = {path.stem: path.read_text()[-2000:] for path in sorted(out.glob("*.txt"))}
    assert done.returncode == 0, json.dumps(faults, indent=1) + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["executions"] > 5
    assert told["outcomes"] > 1


@pytest.mark.parametrize("door", DOORS)
def test_shortly(door: str, tmp_path: Path) -> None:
    _fuzz(door, tmp_path / "found", SHORT)


@pytest.mark.slow
@pytest.mark.parametrize("door", DOORS)
def test_for_longer(door: str, tmp_path: Path) -> None:
    _fuzz(door, tmp_path / "found", SECONDS)


def test_a_fault_is_found(tmp_path: Path) -> None:
    """The judge itself: a reader that fails for one byte in some."""
    code = (
        "import sys\n"
        "from tests.fuzz import __main__ as fuzz, doors\n"
        "def read(data):\n"
        "    if data[:1] == b'x': raise KeyError('x')\n"
        "    if data[:1] == b'm': bytes(1 << 30)\n"
        "    while data[:1] == b't': pass\n"
        "doors.DOORS['onnx'] = lambda work: doors.Door([b'a', b'x', b'm', b't'], read)\n"
        "sys.argv[1:] = ['onnx', sys.argv[1], '--seconds', '0', '--limit-seconds', '1']\n"
        "fuzz.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    faults = json.loads(done.stdout)["faults"]
    assert {fault.split(" ")[0] for fault in faults} == {"KeyError:", "takes", "MemoryError"} or len(
        faults
    ) == 3
    assert {(tmp_path / name).read_bytes() for name in faults.values()} == {b"x", b"m", b"t"}


@pytest.mark.parametrize("loader", [BoundedLoader, BoundedFastLoader])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a: " + "[" * 80 + "]" * 80, "nested over 64"),
        ("a: &a [1, *a]", "stands within"),
        ("a: &a {b: *a}", "stands within"),
        ("- &a [" + "1," * 1000 + "]\n" + "- *a\n" * 300, "over 200000 values"),
        ("a: " + "9" * 5000, "4300 digits"),
        ("a: 2001-99-99", "month"),
        ("a: !!int x", "invalid literal"),
        ("a: !!bool x", "x"),
    ],
)  # fmt: skip
def test_yaml_is_bounded(loader: type, text: str, reason: str) -> None:
    import yaml

    with pytest.raises(yaml.YAMLError, match=reason) as caught:
        load_yaml(text, loader)
    assert "line 1" in str(caught.value) or reason == "over 200000 values"


def test_what_yaml_allows_stays_allowed() -> None:
    assert load_yaml("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n") == {
        "a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}],
    }  # fmt: skip
    with pytest.raises(CloudsError, match=r"(?s)recipe `r.yaml` is not valid YAML.*line 1"):
        parse(Recipe, "seed: " + "9" * 5000, "r.yaml")
    with pytest.raises(CloudsError, match="override `seed=999"):
        parse(Recipe, "name: a", "r.yaml", ("seed=" + "9" * 5000,))
