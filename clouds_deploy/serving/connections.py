"""Connections: their number and their time are bounded, whatever is sent over them, or is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from clouds_deploy.serving.limits import Limits

BACKLOG = 64
"""Connections accepted in one go."""
_SPARE = 64
"""Descriptors for all else: libraries, files, uploads."""
_FLUSH = 5.0
"""Seconds that a closed connection has to send its last bytes."""


class Connections:
    """The connections of one server.

    uvicorn has a time-out between requests, none for headers, and answers 503 above a number of connections
    without closing any, so that half a request on each of them shuts everybody out. Here whoever comes is let
    in, and above the number the one that has been without a request for longest is closed.

    Args:
        limits: `header_seconds`, `idle_seconds`, `connections`.

    Attributes:
        most: Connections at once: as the limits say, or as many as there are descriptors for.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits, self.most = limits, min(limits.connections, descriptors())
        self.fresh: dict[Connection, float] = {}
        self.idle: dict[Connection, float] = {}
        self.active: set[Connection] = set()
        self.closing: dict[Connection, float] = {}

    def __len__(self) -> int:
        return len(self.fresh) + len(self.idle) + len(self.active)

    def admit(self, one: Connection) -> None:
        """Counts a new connection; above the number another one is closed, or this one."""
        if len(self) >= self.most:
            victim = next(iter(self.fresh), None) or next(iter(self.idle), None) or one
            self.forget(victim)
            victim.transport.abort()
            if victim is one:
                return
        self.fresh[one] = _now()

    def works(self, one: Connection) -> None:
        """Notes that a request has begun."""
        self.forget(one)
        self.active.add(one)

    def rests(self, one: Connection) -> None:
        """Notes that an answer is complete."""
        self.forget(one)
        if one.transport.is_closing():
            self.closing[one] = _now()
        else:
            self.idle[one] = _now()

    def forget(self, one: Connection) -> None:
        """Counts a connection no more."""
        self.fresh.pop(one, None)
        self.idle.pop(one, None)
        self.closing.pop(one, None)
        self.active.discard(one)

    def sweep(self) -> None:
        """Closes what has been without a request for too long; to be called about once a second."""
        now = _now()
        for one in [one for one in self.active if one.transport.is_closing()]:
            self.rests(one)
        for group, seconds in (
            (self.fresh, self.limits.header_seconds),
            (self.idle, self.limits.idle_seconds),
            (self.closing, _FLUSH),
        ):
            for one in [one for one, since in group.items() if now - since > seconds]:
                self.forget(one)
                one.transport.abort()


class Connection(H11Protocol):
    """uvicorn's connection, which tells `Connections` what state it is in."""

    def __init__(self, connections: Connections, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.all = connections
        self._begun: Any = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self.all.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.all.forget(self)
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """See `H11Protocol`."""
        super().handle_events()
        if self.cycle is not self._begun:
            self._begun = self.cycle
            if not self.cycle.response_complete:
                self.all.works(self)

    def on_response_complete(self) -> None:
        """See `H11Protocol`."""
        self.all.rests(self)
        super().on_response_complete()


def descriptors() -> int:
    """Connections for which the process has descriptors; their soft limit is raised to the hard one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return 2**31
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if (hard != resource.RLIM_INFINITY and soft < hard) or soft < 65536:
        wanted = 65536 if hard == resource.RLIM_INFINITY else hard
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    with contextlib.suppress(OSError):
        soft -= len(os.listdir("/proc/self/fd"))
    return max(soft - _SPARE - 3 * BACKLOG, 16)


def _now() -> float:
    return asyncio.get_running_loop().time()
