"""Work that ends the process that does it, once."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any


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
