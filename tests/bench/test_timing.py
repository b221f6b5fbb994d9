from __future__ import annotations

import gc

import numpy as np
import pytest

from clouds_deploy.bench.timing import Timing, measure, ratio


class Clock:
    """A clock that only moves when a fake candidate works."""

    def __init__(self) -> None:
        self.now = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.now

    def candidate(self, name: str, milliseconds: float):
        def call() -> None:
            self.calls.append(name)
            self.now += int(milliseconds * 1e6)

        return call


def test_takes_turns_and_rotates_who_is_first() -> None:
    clock = Clock()
    candidates = {name: clock.candidate(name, 10) for name in "ABC"}
    measure(candidates, warmup=0, rounds=4, seconds=0.0, clock=clock)
    assert "".join(clock.calls) == "ABC" + "BCA" + "CAB" + "ABC"


def test_warmup_is_not_counted_and_the_budget_is_shared() -> None:
    clock = Clock()
    found = measure({"a": clock.candidate("a", 10)}, warmup=3, rounds=5, seconds=0.5, clock=clock)
    assert len(clock.calls) == 3 + 50
    assert found["a"].count == 50
    assert len(found["a"].rounds) == 5


def test_synchronize_is_inside_every_timed_call() -> None:
    clock = Clock()

    def wait() -> None:
        clock.now += 5_000_000

    found = measure(
        {"a": clock.candidate("a", 1)}, warmup=1, rounds=2, seconds=0.0, synchronize=wait, clock=clock
    )
    assert found["a"].milliseconds.tolist() == [6.0, 6.0]


def test_percentiles() -> None:
    timing = Timing(np.arange(1.0, 102.0), np.array([51.0]))
    assert timing.to_json() == {
        "p50_ms": 51.0,
        "p90_ms": 91.0,
        "p99_ms": 100.0,
        "min_ms": 1.0,
        "mean_ms": 51.0,
        "calls": 101,
        "rounds": 1,
    }


def test_garbage_is_not_collected_while_measuring_and_is_afterwards() -> None:
    seen: list[bool] = []
    measure({"a": lambda: seen.append(gc.isenabled())}, warmup=1, rounds=1, seconds=0.0)
    assert seen == [True, False]
    assert gc.isenabled()


def test_garbage_collection_comes_back_when_a_candidate_fails() -> None:
    def fail() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        measure({"a": fail}, warmup=0, rounds=1, seconds=0.0)
    assert gc.isenabled()


def test_ratio_is_taken_within_rounds() -> None:
    """A machine that slows down for both leaves the ratio alone."""
    drift = np.array([1.0, 5.0, 1.0, 20.0, 3.0])
    slow, quick = Timing(drift * 4, drift * 4), Timing(drift * 2, drift * 2)
    found = ratio(slow, quick)
    assert found.value == found.low == found.high == pytest.approx(2.0)
    assert found.clear
    assert not ratio(slow, slow).clear


def test_ratio_needs_the_same_rounds() -> None:
    with pytest.raises(ValueError, match="same rounds"):
        ratio(Timing(np.ones(3), np.ones(3)), Timing(np.ones(2), np.ones(2)))
