"""A budget of memory, shared fairly: whoever needs more than is left waits."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Budget:
    """A weighted semaphore that is fair: a small request never overtakes a large one.

    Args:
        total: What can be out at once, in any unit.

    Attributes:
        free: What is left.
    """

    def __init__(self, total: int) -> None:
        self.total = self.free = total
        self._line: deque[tuple[asyncio.Future[None], int]] = deque()

    @asynccontextmanager
    async def take(self, weight: int) -> AsyncIterator[None]:
        """Holds a share while the block runs; one above the total counts as the total.

        Args:
            weight: The share; waits until all earlier ones have theirs and this one fits.
        """
        weight = min(weight, self.total)
        if self._line or weight > self.free:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._line.append((turn, weight))
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._give(weight)
                else:
                    self._line.remove((turn, weight))
                    self._next()
                raise
        else:
            self.free -= weight
        try:
            yield
        finally:
            self._give(weight)

    def _give(self, weight: int) -> None:
        self.free += weight
        self._next()

    def _next(self) -> None:
        while self._line and self._line[0][1] <= self.free:
            turn, weight = self._line[0]
            if turn.cancelled():  # it takes itself out of the line, and calls again
                return
            self._line.popleft()
            self.free -= weight
            turn.set_result(None)
