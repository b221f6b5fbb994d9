"""Dynamic batching: images of many requests go through the backend in one call."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Generic, TypeVar

from clouds_deploy.serving.limits import Refusal

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Done(Generic[R]):
    """The result of one item.

    Attributes:
        result: What the backend gave for it.
        batch: How many items went through in the same call.
        waited: Seconds before that call.
        ran: Seconds the call took.
    """

    result: R
    batch: int
    waited: float
    ran: float


@dataclass(frozen=True)
class _Entry(Generic[T, R]):
    item: T
    future: Future[Done[R]]
    arrived: float


class Batcher(Generic[T, R]):
    """A queue in front of a backend, and the one thread that calls it.

    A call starts when `largest` items wait, or when the first of them has waited for `delay`. Items whose
    future was cancelled meanwhile are left out. Where a call of several fails, each is tried alone, so that
    one bad item fails no other.

    Args:
        run: Maps items to results, one each; called by one thread only.
        name: Of the thread, and of the queue in messages.
        largest: Items per call.
        delay: Seconds that the first of a call may wait for others.
        waiting: Items in the queue; more are refused.
        observe: Called with (items, seconds) of every call.
    """

    def __init__(
        self,
        run: Callable[[list[T]], Sequence[R]],
        name: str,
        *,
        largest: int = 1,
        delay: float = 0.0,
        waiting: int = 128,
        observe: Callable[[int, float], None] | None = None,
    ) -> None:
        self._run, self.name, self._observe = run, name, observe
        self.largest, self.delay, self.waiting = largest, delay, waiting
        self._queue: deque[_Entry[T, R]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._queue)

    def submit(self, items: Sequence[T]) -> list[Future[Done[R]]]:
        """Puts items into the queue, all of them or none.

        Raises:
            Refusal: 429, the queue is full; 413, it could never hold so many; 503, it is closed.
        """
        if len(items) > self.waiting:
            raise Refusal(
                413, f"{len(items)} images in one request, {self.waiting} at most", "send fewer at once"
            )
        entries: list[_Entry[T, R]] = [_Entry(item, Future(), time.monotonic()) for item in items]
        with self._changed:
            if self._closing:
                raise Refusal(503, "the server is shutting down", "ask another one")
            if len(self._queue) + len(items) > self.waiting:
                raise Refusal(429, f"{len(self._queue)} wait for `{self.name}` already", "try again later")
            self._queue.extend(entries)
            self._changed.notify()
        return [entry.future for entry in entries]

    def close(self) -> None:
        """Accepts nothing more, finishes what is in the queue, and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._gather():
            live = [entry for entry in batch if entry.future.set_running_or_notify_cancel()]
            if live:
                self._call(live)

    def _gather(self) -> list[_Entry[T, R]]:
        """The next items of the queue, waited for; an empty list when there will be none."""
        with self._changed:
            while not self._queue and not self._closing:
                self._changed.wait()
            while self._queue and len(self._queue) < self.largest and not self._closing:
                left = self._queue[0].arrived + self.delay - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return [self._queue.popleft() for _ in range(min(self.largest, len(self._queue)))]

    def _call(self, batch: list[_Entry[T, R]]) -> None:
        start = time.monotonic()
        try:
            results = self._run([entry.item for entry in batch])
            ran = time.monotonic() - start
            done = [
                Done(result, len(batch), start - entry.arrived, ran)
                for entry, result in zip(batch, results, strict=True)
            ]
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for entry in batch:
                self._call([entry])
            return
        if self._observe is not None:
            self._observe(len(batch), ran)
        for entry, one in zip(batch, done, strict=True):
            entry.future.set_result(one)
