from __future__ import annotations

import threading
import time

import pytest

from clouds_deploy.serving.batcher import Batcher
from clouds_deploy.serving.limits import Refusal
from tests.deadly import wait_until


class Engine:
    """Doubles numbers, remembers its calls, and waits where it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.go.set()

    def run(self, items: list[int]) -> list[int]:
        self.go.wait(10)
        self.calls.append(items)
        self.threads.add(threading.get_ident())
        if -1 in items:
            raise ValueError("minus one")
        return [2 * item for item in items]


@pytest.fixture
def engine() -> Engine:
    return Engine()


def blocked(engine: Engine, batcher: Batcher[int, int]) -> None:
    """Have the engine hang in a call, so that what is submitted next waits."""
    engine.go.clear()
    batcher.submit([0])
    wait_until(lambda: not len(batcher))


def test_what_waits_goes_together_and_in_order(engine: Engine) -> None:
    observed: list[int] = []
    batcher = Batcher(engine.run, "e", largest=4, observe=lambda items, _: observed.append(items))
    blocked(engine, batcher)
    futures = [future for i in range(1, 8) for future in batcher.submit([i])]
    engine.go.set()
    assert [f.result(10).result for f in futures] == [2 * i for i in range(1, 8)]
    assert engine.calls == [[0], [1, 2, 3, 4], [5, 6, 7]]
    assert [f.result().batch for f in futures] == [4, 4, 4, 4, 3, 3, 3]
    assert observed == [1, 4, 3]
    assert len(engine.threads) == 1
    batcher.close()


def test_the_first_waits_for_others_but_not_longer(engine: Engine) -> None:
    batcher = Batcher(engine.run, "e", largest=2, delay=0.2)
    start = time.monotonic()
    (alone,) = batcher.submit([1])
    assert alone.result(10).batch == 1
    assert 0.19 <= time.monotonic() - start < 5
    start = time.monotonic()
    pair = batcher.submit([1]) + batcher.submit([2])
    assert [f.result(10).batch for f in pair] == [2, 2]
    assert time.monotonic() - start < 0.19  # full: no reason to wait
    batcher.close()


def test_a_full_queue_refuses_all_of_a_request(engine: Engine) -> None:
    batcher = Batcher(engine.run, "e", waiting=3)
    blocked(engine, batcher)
    kept = batcher.submit([1, 2])
    with pytest.raises(Refusal) as caught:
        batcher.submit([3, 4])
    assert caught.value.status == 429
    assert caught.value.headers == {"Retry-After": "1"}
    with pytest.raises(Refusal) as caught:
        batcher.submit([1, 2, 3, 4])
    assert caught.value.status == 413
    engine.go.set()
    assert [f.result(10).result for f in kept] == [2, 4]
    batcher.close()


def test_who_gave_up_is_not_computed(engine: Engine) -> None:
    batcher = Batcher(engine.run, "e", largest=8)
    blocked(engine, batcher)
    futures = batcher.submit([1, 2, 3])
    assert futures[1].cancel()
    engine.go.set()
    assert [futures[i].result(10).result for i in (0, 2)] == [2, 6]
    assert engine.calls[1] == [1, 3]
    batcher.close()


def test_one_fault_does_not_spoil_its_neighbours(engine: Engine) -> None:
    batcher = Batcher(engine.run, "e", largest=8)
    blocked(engine, batcher)
    futures = batcher.submit([1, -1, 3])
    engine.go.set()
    assert futures[0].result(10).result == 2
    assert futures[2].result(10).result == 6
    with pytest.raises(ValueError, match="minus one"):
        futures[1].result(10)
    batcher.close()


def test_closing_finishes_what_is_queued(engine: Engine) -> None:
    batcher = Batcher(engine.run, "e", largest=2, delay=60)
    futures = batcher.submit([1, 2, 3])
    batcher.close()
    assert [f.result(0).result for f in futures] == [2, 4, 6]
    with pytest.raises(Refusal) as caught:
        batcher.submit([4])
    assert caught.value.status == 503
