"""How long a request is worth working for, and what it holds until then."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

from starlette.requests import Request

from clouds_deploy.serving.limits import Refusal

KEY = "clouds_deploy.lifetime"
"""Where a request's scope has its lifetime."""


class Lifetime:
    """The time between a request's acceptance and its end: answered, too late, or its client gone.

    Work asks `check` between its units, and stops when the request has ended. What a request holds (a share
    of a budget) is given back when it has ended and no work for it runs any more, so that budgets count what
    is really in memory.

    Args:
        seconds: Time of the request.
        begun: When it began, by `time.monotonic`; None is now.
    """

    def __init__(self, seconds: float, begun: float | None = None) -> None:
        self.seconds = seconds
        self._end = (time.monotonic() if begun is None else begun) + seconds
        self._ended = False
        self._held = AsyncExitStack()
        self._work: set[Future[Any]] = set()

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return max(0.0, self._end - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether nobody waits for the answer any more; to be asked from any thread."""
        return self._ended or time.monotonic() > self._end

    def check(self) -> None:
        """Raises a `Refusal`, 504, where the request has ended."""
        if self.over:
            raise late(self.seconds)

    async def hold(self, share: AbstractAsyncContextManager[Any]) -> None:
        """Enters a context that is left when the request has ended and its work has stopped."""
        await self._held.enter_async_context(share)

    async def result(self, work: Future[Any]) -> Any:
        """Waits for work on another thread; if the request ends before it has started, it never starts."""
        self._work.add(work)
        return await asyncio.wrap_future(work)

    async def end(self) -> None:
        """Ends the request: its work stops at the next unit, then what it holds is given back."""
        self._ended = True
        running = [work for work in self._work if not work.done() and not work.cancel()]
        if running:
            await asyncio.gather(*map(asyncio.wrap_future, running), return_exceptions=True)
        await self._held.aclose()


def lifetime(request: Request) -> Lifetime:
    """The lifetime of a request that came through the gate."""
    found = request.scope[KEY]
    assert isinstance(found, Lifetime)
    return found


def late(seconds: float) -> Refusal:
    """The answer where time ran out."""
    return Refusal(
        504,
        f"no answer within {seconds:g} s",
        "send a smaller image, or try when the server is less busy",
    )
