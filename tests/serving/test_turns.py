from __future__ import annotations

import threading
import time

import pytest

from clouds_deploy.serving.lifetime import Lifetime
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.turns import Turn, Turns
from tests.deadly import wait_until


def units(log: list[str], name: str, count: int, seconds: float = 0.01) -> object:
    def job(turn: Turn) -> str:
        for _ in range(count):
            time.sleep(seconds)
            log.append(name)
            turn.pause()
        return name

    return job


def test_a_short_job_waits_for_a_unit_not_for_the_whole() -> None:
    turns, log = Turns("t"), []
    long = turns.submit(units(log, "long", 50))
    wait_until(lambda: len(log) > 3)
    short = turns.submit(units(log, "short", 1), short=True)
    assert short.result(10).result == "short"
    assert log.index("short") < 30
    assert long.result(10).result == "long"
    assert log.count("long") == 50
    turns.close()


def test_long_jobs_share_the_time_and_only_one_works() -> None:
    turns, log = Turns("t", threads=4), []
    working: list[int] = []

    def job(turn: Turn) -> None:
        for _ in range(20):
            working.append(1)
            assert len(working) == 1
            time.sleep(0.002)
            working.pop()
            log.append(threading.current_thread().name)
            turn.pause()

    futures = [turns.submit(job) for _ in range(3)]
    for future in futures:
        future.result(10)
    first = log[: len(log) // 3]
    assert len(set(first)) == 2  # threads less two begin at once, and go on in turn
    assert max(first.count(name) for name in set(first)) < len(first) * 0.8
    turns.close()


def test_a_flood_of_short_jobs_does_not_starve_a_long_one() -> None:
    turns, log = Turns("t"), []
    long = turns.submit(units(log, "long", 5, 0.005))
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            turns.submit(units(log, "short", 1, 0.005), short=True).result(10)

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert long.result(5).result == "long"
    stop.set()
    for thread in threads:
        thread.join()
    turns.close()


def test_work_whose_request_has_ended_stops_at_the_next_unit() -> None:
    turns, log = Turns("t"), []
    future = turns.submit(units(log, "late", 10**6, 0.01), life=Lifetime(0.1))
    with pytest.raises(Refusal, match="no answer within"):
        future.result(5)
    assert 2 < len(log) < 20
    count = len(log)
    never = turns.submit(units(log, "never", 1), life=Lifetime(-1))
    with pytest.raises(Refusal):
        never.result(5)
    assert len(log) == count
    turns.close()


def test_a_fault_is_that_jobs_alone_and_closing_finishes_the_queue() -> None:
    turns, log = Turns("t", threads=3, waiting=3), []

    def fails(turn: Turn) -> None:
        turn.pause()
        raise ValueError("mine")

    bad = turns.submit(fails)
    with pytest.raises(ValueError, match="mine"):
        bad.result(5)
    futures = [turns.submit(units(log, "0", 30))]
    wait_until(lambda: not len(turns))  # begun
    futures += [turns.submit(units(log, str(i), 3)) for i in (1, 2, 3)]
    with pytest.raises(Refusal) as caught:
        turns.submit(units(log, "x", 1))
    assert caught.value.status == 429
    turns.close()
    assert all(future.result(0).result == str(i) for i, future in enumerate(futures))
    with pytest.raises(Refusal) as caught:
        turns.submit(units(log, "x", 1))
    assert caught.value.status == 503
