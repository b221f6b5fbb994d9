"""What a model did so far, in the form of Triton's statistics extension."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from clouds_deploy.serving.batcher import Done


@dataclass
class _Duration:
    """How often something happened, and its time in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.ns += round(seconds * 1e9)

    def to_json(self) -> dict[str, int]:
        return {"count": self.count, "ns": self.ns}


@dataclass
class Statistics:
    """Counts and times of one model's requests; only the event loop changes those, its queue the calls.

    Attributes:
        success: Requests that were answered.
        failed: Requests that were refused or failed after their input was read.
        queue: Waiting of these requests' images.
        infer: Calls of the backend, as each image saw them.
        images: Images that were labelled.
        calls: Calls of the backend, by how many images they had.
        last: Unix time of the last call in milliseconds; 0 before the first.
    """

    success: _Duration = field(default_factory=_Duration)
    failed: _Duration = field(default_factory=_Duration)
    queue: _Duration = field(default_factory=_Duration)
    infer: _Duration = field(default_factory=_Duration)
    images: int = 0
    calls: dict[int, _Duration] = field(default_factory=dict)
    last: int = 0

    def call(self, images: int, seconds: float) -> None:
        """Counts a call of the backend."""
        self.images += images
        self.calls.setdefault(images, _Duration()).add(seconds)
        self.last = round(time.time() * 1e3)

    def answered(self, done: Sequence[Done[Any]], seconds: float) -> None:
        """Counts a request that was answered."""
        self.success.add(seconds)
        for one in done:
            self.queue.add(one.waited)
            self.infer.add(one.ran)

    def to_json(self, name: str, version: str) -> dict[str, Any]:
        """The statistics of the model `name`."""
        nothing = _Duration().to_json()
        return {
            "name": name,
            "version": version,
            "last_inference": self.last,
            "inference_count": self.images,
            "execution_count": sum(one.count for one in self.calls.values()),
            "inference_stats": {
                "success": self.success.to_json(),
                "fail": self.failed.to_json(),
                "queue": self.queue.to_json(),
                "compute_input": nothing,
                "compute_infer": self.infer.to_json(),
                "compute_output": nothing,
                "cache_hit": nothing,
                "cache_miss": nothing,
            },
            "batch_stats": [
                {
                    "batch_size": size,
                    "compute_input": nothing,
                    "compute_infer": taken.to_json(),
                    "compute_output": nothing,
                }
                for size, taken in sorted(self.calls.items())
            ],
        }
