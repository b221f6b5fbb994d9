"""Killed processes, and waiting that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


class Deadly:
    """Mixed into a kind of work: takes its process down with it when it first comes to a unit.

    Attributes:
        victim: The unit's name.
        marker: A file that tells the first time from others.
    """

    victim: str
    marker = Path()

    def work(self, unit: Any, folder: Path) -> Any:
        if unit.name == self.victim and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().work(unit, folder)  # type: ignore[misc]
