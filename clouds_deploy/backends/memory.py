"""Memory that a process keeps between equal pieces of work, instead of asking the kernel for it each time."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
"""Parameters of glibc's `mallopt`, from its malloc.h."""


@contextmanager
def kept_memory() -> Iterator[Callable[[], None]]:
    """Let glibc keep what is freed while something runs, and give it back afterwards.

    A network frees and asks again for the same large tensors. glibc gives each back to the kernel, which
    clears every page of the next: up to half of the time. What the process holds is then what its largest
    piece of work needed, and holes between small blocks. Afterwards glibc has the thresholds that it grows to
    by itself when large blocks are freed, 32 and 64 MiB. Elsewhere than with glibc nothing happens.

    Yields:
        What gives back all that is free at the moment: to be called now and then where pieces of work differ,
        for then the holes grow.
    """
    libc = _glibc()
    if libc is None:
        yield lambda: None
        return
    libc.mallopt(_TRIM_THRESHOLD, -1)
    libc.mallopt(_MMAP_MAX, 0)
    try:
        yield lambda: libc.malloc_trim(0)
    finally:
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_TRIM_THRESHOLD, 64 << 20)
        libc.malloc_trim(0)


def _glibc() -> Any:
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None
