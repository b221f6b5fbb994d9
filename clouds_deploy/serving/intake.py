"""Reception of request bodies: slow senders wait outside, and hold nothing that others need."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from clouds_deploy.serving.limits import Limits, Refusal

_GRACE = 0.5
"""Seconds after which a body that is still arriving may be given up in favour of others."""

Next = Callable[[], Awaitable[tuple[bytes, bool]]]
"""The next bytes of a body, and whether they are the last."""


@dataclass(eq=False)
class Body:
    """A body on its way, and then as long as its request is worked on.

    Attributes:
        data: What arrived so far.
        held: Bytes of the intake's memory that it holds.
    """

    data: bytearray = field(default_factory=bytearray)
    held: int = 0
    begun: float = 0.0
    waits: bool = False
    given_up: Refusal | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    def rate(self) -> float:
        """Bytes per second so far."""
        return len(self.data) / max(anyio.current_time() - self.begun, 1e-9)


class Intake:
    """Receives bodies within a number of connections, an amount of memory, and time.

    Memory is taken for what has arrived, not for what a header announces. Where connections or memory run
    out, the body that arrives most slowly is given up, unless it has only just begun. The body that began
    first may use a reserve that no other touches, so that of many halves one always becomes whole.

    Args:
        limits: `bodies`, `held_bytes`, `body_bytes`, `stall_seconds`.

    Attributes:
        total: Bytes of memory.
        free: What is left of them.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.total = self.free = limits.held_bytes
        self._arriving: dict[Body, None] = {}
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._arriving)

    async def receive(self, next_: Next, body: Body, seconds: float) -> None:
        """Receives a body; `release` gives its memory back, even where this raises.

        Args:
            next_: Gives its parts.
            body: What to fill.
            seconds: Time for the whole of it.

        Raises:
            Refusal: 408, it was too slow; 429, too many arrive; 503, the server stops; see also `next_`.
        """
        now = anyio.current_time()
        end, last = now + seconds, False
        while len(self._arriving) >= self.limits.bodies:
            if len(self._waiting) >= self.limits.bodies or anyio.current_time() > now + 2 * _GRACE:
                raise Refusal(429, f"{len(self)} requests are being received already", "try again later")
            self._give_up_slowest(body)
            await self._change()
        body.begun = anyio.current_time()
        self._arriving[body] = None
        try:
            with body.scope:
                while not last:
                    body.scope.deadline = min(end, anyio.current_time() + self.limits.stall_seconds)
                    part, last = await next_()
                    body.scope.deadline = end
                    await self._take(body, len(part))
                    body.data += part
                    body.waits = False
        finally:
            del self._arriving[body]
            self._wake()
        if body.scope.cancelled_caught and not last:
            after = anyio.current_time() - now
            raise body.given_up or Refusal(
                408, f"the request's body had not arrived after {after:.1f} s", "send it faster"
            )

    def release(self, body: Body) -> None:
        """Gives back the memory of a body."""
        self.free += body.held
        body.held = 0
        self._wake()

    def stop(self) -> None:
        """Gives up what has not arrived."""
        for body in self._arriving:
            self._give_up(body, Refusal(503, "the server is shutting down", "ask another one"))

    async def _take(self, body: Body, size: int) -> None:
        while True:
            first = next(iter(self._arriving)) is body
            if size <= self.free - (0 if first else self.limits.body_bytes):
                self.free -= size
                body.held += size
                return
            body.waits = True  # by our fault: its rate says nothing now
            self._give_up_slowest(body)
            await self._change()

    async def _change(self) -> None:
        """Waits until something is free, or for a while, after which others may count as slow."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            with anyio.move_on_after(_GRACE / 4):
                await turn
        finally:
            if turn in self._waiting:
                self._waiting.remove(turn)

    def _give_up_slowest(self, other: Body) -> bool:
        now = anyio.current_time()
        slow = [
            body
            for body in self._arriving
            if body is not other and not body.waits and not body.given_up and now - body.begun > _GRACE
        ]
        if not slow:
            return False
        refusal = Refusal(408, "the request's body arrives more slowly than others", "send it faster")
        self._give_up(min(slow, key=Body.rate), refusal)
        return True

    def _give_up(self, body: Body, refusal: Refusal) -> None:
        body.given_up = refusal
        body.scope.cancel()

    def _wake(self) -> None:
        for turn in self._waiting:
            if not turn.done():
                turn.set_result(None)
        self._waiting.clear()
