"""A log that nobody can fill: of each message a few, then one from time to time with a count."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

LOGGERS = ("uvicorn.error", "asyncio")
_MESSAGES = 64
"""Different messages that are told apart."""


class Sparing(logging.Filter):
    """Lets pass a burst of each message, then one in `seconds`, which says how many were left out.

    Args:
        burst: Of each message.
        seconds: Between two of them afterwards.
    """

    def __init__(self, burst: int = 10, seconds: float = 10.0) -> None:
        super().__init__()
        self._burst, self._seconds = burst, seconds
        self._seen: dict[tuple[str, int, str], list[float]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        key = record.pathname, record.lineno, str(record.msg)[:80]
        if key not in self._seen and len(self._seen) >= _MESSAGES:
            key = ("", 0, "")
        now = time.monotonic()
        left, last, missed = self._seen.setdefault(key, [float(self._burst), now, 0.0])
        left = min(self._burst, left + (now - last) / self._seconds)
        passes = left >= 1
        self._seen[key] = [left - passes, now, 0.0 if passes else missed + 1]
        if passes and missed:
            record.msg = f"{record.getMessage()} (and {missed:.0f} such messages that are not shown)"
            record.args = ()
        return passes


@contextmanager
def spared() -> Iterator[None]:
    """Puts a `Sparing` before the server's loggers while the block runs."""
    one = Sparing()
    for name in LOGGERS:
        logging.getLogger(name).addFilter(one)
    try:
        yield
    finally:
        for name in LOGGERS:
            logging.getLogger(name).removeFilter(one)
