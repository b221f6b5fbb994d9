"""Long and short work on one model: one unit at a time, and whoever has had the least time goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from clouds_deploy.serving.batcher import Done
from clouds_deploy.serving.lifetime import Lifetime
from clouds_deploy.serving.limits import Refusal

R = TypeVar("R")


class Turn:
    """One job's right to the model. The job calls `pause` between its units.

    Attributes:
        used: Seconds that it has had, counted from what the others had when it came.
    """

    def __init__(self, turns: Turns, life: Lifetime | None) -> None:
        self._turns, self._life = turns, life
        self.used, self._since = 0.0, 0.0

    def pause(self) -> None:
        """Lets others go on who have had less.

        Raises:
            Refusal: The request has ended.
        """
        self._turns.leave(self)
        try:
            if self._life is not None:
                self._life.check()
        finally:
            self._turns.enter(self)

    def start(self) -> None:
        """The clock runs."""
        self._since = time.monotonic()

    def stop(self) -> None:
        """The clock stands still."""
        self.used += time.monotonic() - self._since


@dataclass(frozen=True)
class _Entry(Generic[R]):
    job: Callable[[Turn], R]
    future: Future[Done[R]]
    turn: Turn
    short: bool
    arrived: float


class Turns:
    """A few threads of which one works at a time.

    A long job (a refinement, which is hundreds of units) therefore delays a short one (a click) by one of its
    units, and two long ones go on in turn. Jobs whose future was cancelled, or whose request has ended, are
    left out.

    Args:
        name: Of the threads, and of the queue in messages.
        threads: Jobs that can be begun at once; two of them are kept for short ones.
        waiting: Jobs in the queue; more are refused.
        observe: Called with (1, seconds) of every job that ended well.
    """

    def __init__(
        self,
        name: str,
        *,
        threads: int = 6,
        waiting: int = 128,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self.name, self.waiting, self._observe = name, waiting, observe
        self._queue: list[_Entry[Any]] = []
        self._ready: list[Turn] = []
        self._holder: Turn | None = None
        self._changed = threading.Condition()
        self._long, self._most_long = 0, threads - 2
        self._closing = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{i}", daemon=True) for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(
        self, job: Callable[[Turn], R], *, short: bool = False, life: Lifetime | None = None
    ) -> Future[Done[R]]:
        """Queues a job.

        Args:
            job: Gets its turn; only one job runs between two calls of `Turn.pause`.
            short: Whether it is a single unit.
            life: Of the request that it is for.

        Raises:
            Refusal: 429, the queue is full; 503, it is closed.
        """
        entry: _Entry[R] = _Entry(job, Future(), Turn(self, life), short, time.monotonic())
        with self._changed:
            if self._closing:
                raise Refusal(503, "the server is shutting down", "ask another one")
            if len(self._queue) >= self.waiting:
                raise Refusal(429, f"{len(self._queue)} wait for `{self.name}` already", "try again later")
            self._queue.append(entry)
            self._changed.notify_all()
        return entry.future

    def close(self) -> None:
        """Accepts nothing more, finishes what is in the queue, and ends the threads."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def enter(self, turn: Turn) -> None:
        """Waits until nobody works who has had less."""
        with self._changed:
            self._ready.append(turn)
            self._changed.wait_for(lambda: self._holder is None and min(self._ready, key=_had) is turn)
            self._ready.remove(turn)
            self._holder = turn
        turn.start()

    def leave(self, turn: Turn) -> None:
        """Lets others work."""
        turn.stop()
        with self._changed:
            self._holder = None
            self._changed.notify_all()

    def _work(self) -> None:
        while entry := self._take():
            try:
                if entry.future.set_running_or_notify_cancel():
                    self._run(entry)
            finally:
                with self._changed:
                    self._long -= not entry.short
                    self._changed.notify_all()

    def _take(self) -> _Entry[Any] | None:
        """The next job, short ones first; None when there will be none."""

        def fits() -> _Entry[Any] | None:
            short = (entry for entry in self._queue if entry.short)
            any_ = iter(self._queue if self._long < self._most_long else ())
            return next(short, None) or next(any_, None)

        with self._changed:
            self._changed.wait_for(lambda: fits() or (self._closing and not self._queue))
            entry = fits()
            if entry is not None:
                self._queue.remove(entry)
                self._long += not entry.short
                had = [turn.used for turn in (*self._ready, self._holder) if turn is not None]
                entry.turn.used = min(had, default=0.0)  # neither ahead of those who wait, nor behind
            return entry

    def _run(self, entry: _Entry[Any]) -> None:
        self.enter(entry.turn)
        begun, before = time.monotonic(), entry.turn.used
        try:
            if entry.turn._life is not None:
                entry.turn._life.check()
            result = entry.job(entry.turn)
        except BaseException as error:
            self.leave(entry.turn)
            entry.future.set_exception(error)
            return
        self.leave(entry.turn)
        ran = entry.turn.used - before
        if self._observe is not None:
            self._observe(1, ran)
        entry.future.set_result(Done(result, 1, begun - entry.arrived, ran))


def _had(turn: Turn) -> float:
    return turn.used
