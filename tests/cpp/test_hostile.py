"""Every hostile bundle that Python refuses is refused by C++ too: for the same reason, at as little cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bundles import hostile

DOORS = """
import ctypes, json, sys, time
from pathlib import Path

inside = ctypes.CDLL(sys.argv[1])
inside.go_through.restype = ctypes.c_char_p
out, found = Path(sys.argv[2]), {}
for case in json.loads((out / "expected.json").read_text()):
    if "cpp" not in case["languages"]:
        continue
    start = time.monotonic()
    told = inside.go_through(str(out / case["path"]).encode(), case["door"].encode())
    status = Path("/proc/self/status").read_text()  # the usage of getrusage begins at the parent's
    peak = int(status.split("VmHWM:")[1].split()[0]) >> 10
    seconds = time.monotonic() - start
    found[case["name"]] = {"told": (told or b"opened").decode(), "seconds": seconds, "MiB": peak}
for name in ("good", "good_text"):
    for door in ("open", "reference", "session", "vocabulary")[: 4 if name == "good_text" else 3]:
        told = inside.go_through(str(out / name).encode(), door.encode())
        assert told is None, (name, door, told)
print(json.dumps(found))
"""


def test_all_are_refused_for_the_reason_of_python(cpp_build: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    hostile.write_all(out)
    library = str(cpp_build / "clouds_internals.so")
    command = [sys.executable, "-c", DOORS, library, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    cases = [case for case in json.loads((out / "expected.json").read_text()) if case["name"] in found]
    assert len(cases) >= 150
    wrong = {
        case["name"]: (case["reason"], found[case["name"]]["told"][-300:])
        for case in cases
        if not re.search(case["message"], found[case["name"]]["told"])
    }
    assert not wrong, json.dumps(wrong, indent=1)
    assert not {name: one for name, one in found.items() if one["seconds"] > 5 or one["MiB"] > 500}
    assert "\x1b" not in "".join(one["told"] for one in found.values())
