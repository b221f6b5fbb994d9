"""The only clock of the project.

Two programs timed one after the other see two machines: caches, clocks and other processes change meanwhile.
So rounds of all candidates are interleaved (A B C, B C A, ...), every call is timed by itself, and ratios are
taken within a round, where both sides saw the same machine.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from clouds_deploy import seeds


@dataclass(frozen=True)
class Timing:
    """What one candidate took.

    Attributes:
        milliseconds: (calls,) duration of every call, in the order they were made.
        rounds: (rounds,) median milliseconds of every round.
    """

    milliseconds: npt.NDArray[np.float64]
    rounds: npt.NDArray[np.float64]

    @property
    def count(self) -> int:
        """How many calls were timed."""
        return len(self.milliseconds)

    @property
    def mean(self) -> float:
        """Mean milliseconds of a call."""
        return float(self.milliseconds.mean())

    @property
    def minimum(self) -> float:
        """Milliseconds of the fastest call."""
        return float(self.milliseconds.min())

    def percentile(self, share: float) -> float:
        """The milliseconds that `share` (0..100) percent of the calls stayed within."""
        return float(np.percentile(self.milliseconds, share))

    def to_json(self) -> dict[str, float | int]:
        """The figures that a report needs."""
        return {
            "p50_ms": self.percentile(50),
            "p90_ms": self.percentile(90),
            "p99_ms": self.percentile(99),
            "min_ms": self.minimum,
            "mean_ms": self.mean,
            "calls": self.count,
            "rounds": len(self.rounds),
        }


@dataclass(frozen=True)
class Ratio:
    """The speed-up of one candidate over another.

    Attributes:
        value: Median over the rounds of (other's median / this one's median).
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out 1, the same speed."""
        return self.low > 1.0 or self.high < 1.0


def measure(
    candidates: Mapping[str, Callable[[], object]],
    *,
    warmup: int = 3,
    rounds: int = 10,
    seconds: float = 5.0,
    synchronize: Callable[[], None] | None = None,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, Timing]:
    """Times candidates against each other.

    Args:
        candidates: What to call, by name.
        warmup: Calls of each before anything counts.
        rounds: Interleaved rounds, at least 1; each starts with the next candidate.
        seconds: About how long each candidate is timed in all; it is called at least once a round.
        synchronize: Waits until a device has done what it was given; called inside every timed call. A
            backend that returns finished arrays needs none.
        clock: Nanoseconds; for tests.

    Returns:
        The timings by name. The garbage collector is off while a candidate runs.
    """
    if not candidates:
        return {}
    for call in candidates.values():
        for _ in range(warmup):
            call()
        if synchronize is not None:
            synchronize()
    budget = int(seconds * 1e9 / max(rounds, 1))
    durations: dict[str, list[float]] = {name: [] for name in candidates}
    medians: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    for turn in range(max(rounds, 1)):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            taken = _turn(candidates[name], budget, synchronize, clock)
            durations[name].extend(taken)
            medians[name].append(float(np.median(taken)))
    return {name: Timing(np.array(durations[name]), np.array(medians[name])) for name in names}


def _turn(
    call: Callable[[], object],
    budget: int,
    synchronize: Callable[[], None] | None,
    clock: Callable[[], int],
) -> list[float]:
    """Calls until the budget (ns) is spent; milliseconds of every call."""
    collecting = gc.isenabled()
    gc.disable()
    taken: list[float] = []
    try:
        end = clock() + budget
        while True:
            start = clock()
            call()
            if synchronize is not None:
                synchronize()
            stop = clock()
            taken.append((stop - start) / 1e6)
            if stop >= end:
                return taken
    finally:
        if collecting:
            gc.enable()


def ratio(reference: Timing, candidate: Timing, *, samples: int = 2000, seed: int = 0) -> Ratio:
    """The speed-up of a candidate over a reference timed in the same rounds.

    Args:
        reference: What it is compared with.
        candidate: Whose speed-up is asked for.
        samples: Bootstrap samples of the rounds.
        seed: Of the bootstrap.

    Returns:
        The median of the per-round ratios with its 95 % bootstrap interval.

    Raises:
        ValueError: They were not timed in the same rounds.
    """
    if len(reference.rounds) != len(candidate.rounds):
        raise ValueError("a ratio needs timings of the same rounds")
    ratios = reference.rounds / candidate.rounds
    picks = seeds.generator(seed).integers(0, len(ratios), (samples, len(ratios)))
    low, high = np.percentile(np.median(ratios[picks], axis=1), (2.5, 97.5))
    return Ratio(float(np.median(ratios)), float(low), float(high))


@dataclass
class Stopwatch:
    """Seconds of the stages of a job, once each: for a report, not for a claim.

    Attributes:
        seconds: Seconds of every stage that ended, by name.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Times a stage; one that fails is not counted."""
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start
