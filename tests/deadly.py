"""Killed processes, and waiting that ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def wait_until(true: Callable[[], object], seconds: float = 10.0) -> None:
    """Poll for what comes true soon, and fail when it does not."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"still waiting after {seconds:g} s"
        time.sleep(0.002)


def kill(process: subprocess.Popen[Any]) -> None:
    """End a process that still runs, at once."""
    assert process.poll() is None, "it ended before it was killed"
    process.send_signal(signal.SIGKILL)
    process.wait(30)


def done(out: Path) -> list[str]:
    """Names in a ledger."""
    ledger = out / "ledger.jsonl"
    lines = ledger.read_text().split("\n")[:-1] if ledger.is_file() else []
    return [json.loads(line)["name"] for line in lines]


def kill_after(command: list[str], out: Path, more: int, timeout: float = 120.0) -> int:
    """Start, wait until so many more images are done, kill; how many are done then."""
    before = len(done(out))
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: process.poll() is not None or len(done(out)) >= before + more, timeout)
    kill(process)
    return len(done(out))


def finish(command: list[str]) -> dict[str, Any]:
    """What a command prints as JSON."""
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.stdout, ended.stderr
    return json.loads(ended.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


class Deadly:
    """Mixed into a kind of work: kills its process when it first comes to a unit.

    Attributes:
        victim: The unit's name.
        marker: A file that tells the first time from others.
    """

    victim: str
    marker = Path()

    def stage(self, unit: Any, folder: Path) -> Any:
        if unit.name == self.victim and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().stage(unit, folder)  # type: ignore[misc]
