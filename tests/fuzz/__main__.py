"""Damages inputs of one door for a while: `python -m tests.fuzz DOOR OUT [--seconds 30] [--seed 0]`.

The rule: an input is read, or refused by a `CloudsError` (a server: answered below 500), within
`--limit-seconds` and `--limit-mib` more memory than before. What breaks it is written to `OUT`, and exit
code 1 says so. An input that ends the process is in `OUT/current`. An outcome that was not seen before makes
its input one of those that are damaged next, so that what lies behind the first checks is reached too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError
from tests.fuzz.doors import DOORS, Door

_CORPUS = 400


class TooLong(BaseException):
    """An input took more time than it may; nothing catches it."""


def _stop(*_: Any) -> None:
    raise TooLong


def _memory(name: str) -> int:
    """Bytes of this process by `/proc`, such as `VmHWM`."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) << 10 if found else 0


def outcome(door: Door, data: bytes, seconds: float, mebibytes: int) -> tuple[str, str]:
    """What an input leads to: a short text that is equal for equal outcomes, and a fault or nothing."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    told, fault = "read", ""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            door.read(data)
    except CloudsError as error:
        told = re.sub(r"\d+|0x[0-9a-f]+", "0", error.message)[:160]
        told = re.sub(r"(['\"`]).*?\1", "x", told)
    except TooLong:
        told = fault = f"takes over {seconds} s"
    except BaseException:
        fault = traceback.format_exc()
        told = re.sub(r"\d+", "0", fault.splitlines()[-1])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (_memory("VmHWM") - before) >> 20
    if not fault and grown > mebibytes:
        told = fault = f"takes {grown} MiB"
    return told, fault


def fuzz(name: str, out: Path, seconds: float, seed: int, limit: float, mebibytes: int) -> dict[str, Any]:
    """Damages inputs for a while; see the module."""
    out.mkdir(parents=True, exist_ok=True)
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGALRM, _stop)
    rng, current, found = random.Random(f"{seed} {name}"), out / "current", {}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        door = DOORS[name](Path(folder))
        outcome(door, door.seeds[0], 60, 1 << 20)  # imports, caches
        resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + (2 * mebibytes << 20),) * 2)
        known, seen, count, start = list(door.seeds), set(), 0, time.monotonic()
        while count < len(door.seeds) or time.monotonic() - start < seconds:
            whole = count < len(door.seeds)
            data = known[count] if whole else door.change(rng.choice(known), rng, known)
            current.write_bytes(data)
            told, fault = outcome(door, data, limit, mebibytes)
            count += 1
            if told not in seen and len(known) < _CORPUS and not fault and not whole:
                known.append(data)
            seen.add(told)
            if fault and told not in found:
                place = out / f"fault-{hashlib.sha256(data).hexdigest()[:12]}"
                place.write_bytes(data)
                place.with_suffix(".txt").write_text(fault)
                found[told] = place.name
    current.unlink()
    spent = round(time.monotonic() - start, 1)
    return {"door": name, "executions": count, "seconds": spent, "outcomes": len(seen), "faults": found}


def main() -> int:
    """Command line; exit code 1 says that an input broke the rule."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("door", choices=DOORS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit-seconds", type=float, default=10)
    parser.add_argument("--limit-mib", type=int, default=500)
    given = parser.parse_args()
    done = fuzz(given.door, given.out, given.seconds, given.seed, given.limit_seconds, given.limit_mib)
    sys.stdout.write(json.dumps(done) + "\n")
    sys.stdout.flush()
    os._exit(1 if done["faults"] else 0)  # threads of engines have nothing to say any more


if __name__ == "__main__":
    main()
