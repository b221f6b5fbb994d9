"""Every bundle of `hostile` is refused for its reason, in little time and memory, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from clouds_deploy.bundles.bundle import open_bundle
from tests.bundles.hostile import write_all

OPEN = """
import json, sys, time
from pathlib import Path
from clouds_deploy.backends.backends import open_session
from clouds_deploy.bundles.bundle import open_bundle
from clouds_deploy.errors import CloudsError

def door(path, which):
    bundle = open_bundle(path)
    if which in ("reference", "vocabulary"):
        getattr(bundle, which)()
    if which == "session":
        for backend in ("onnxruntime", "openvino"):
            try:
                open_session(bundle, backend)
            except CloudsError as error:
                last = error
            else:
                return
        raise last

out = Path(sys.argv[1])
found = {}
for case in json.loads((out / "expected.json").read_text()):
    start = time.monotonic()
    try:
        door(out / case["path"], case["door"])
        told = "opened"
    except CloudsError as error:
        told = error.message
    except BaseException as error:
        told = f"{type(error).__name__}: {error}"
    status = Path("/proc/self/status").read_text()  # rusage begins with what the parent had
    peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
    found[case["name"]] = {"told": told, "seconds": time.monotonic() - start, "MiB": peak}
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hostile") / "out"
    write_all(out)
    return out


def test_all_are_refused_for_their_reason(written: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(written)],
        env={**os.environ, "CLOUDS_DEPLOY_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    cases = json.loads((written / "expected.json").read_text())
    assert len(cases) >= 150
    assert len({case["name"] for case in cases}) == len(cases)
    wrong = {
        case["name"]: (case["reason"], found[case["name"]]["told"][-300:])
        for case in cases
        if not re.search(case["message"], found[case["name"]]["told"])
    }
    assert not wrong, json.dumps(wrong, indent=1)
    slow = {name: one for name, one in found.items() if one["seconds"] > 5 or one["MiB"] > 500}
    assert not slow
    assert "\x1b" not in "".join(one["told"] for one in found.values())
    assert not (cache / "bundles").exists() or not list((cache / "bundles").iterdir())


def test_what_they_were_made_of_opens(written: Path) -> None:
    assert open_bundle(written / "good").reference()["image"].shape == (2, 32, 64, 3)
    (written / "good" / "proofs").mkdir()
    (written / "good" / "proofs" / "x.json").write_text("{}")
    open_bundle(written / "good")
    vocabulary = open_bundle(written / "good_text").vocabulary()
    assert vocabulary is not None
    assert len(vocabulary.names) == 19
