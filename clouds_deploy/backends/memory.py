"""Memory that a process keeps between equal pieces of work instead of returning it to the kernel."""

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
    """Makes glibc keep freed memory while something runs, and returns it to the kernel afterwards.

    A network frees and allocates the same large tensors again and again. By default glibc returns each to the
    kernel, which clears every page of the next one: up to half of the time. With this, the process holds what
    its largest piece of work needed, plus gaps between small blocks. Afterwards glibc has the thresholds that
    it reaches by itself once large blocks are freed, 32 and 64 MiB. Without glibc nothing happens.

    Yields:
        A function that returns all free memory to the kernel: call it now and then where pieces of work
        differ in size, because then the gaps grow.
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
