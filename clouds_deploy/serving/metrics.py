"""Metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

__all__ = ["CONTENT_TYPE", "Metrics"]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one server, in a registry of its own, so that two servers in a process do not mix.

    Attributes:
        requests: Answers by route and status.
        seconds: Duration of requests, by route.
        batch: Images per call, by model.
        engine_seconds: Duration of calls, by model.
        in_flight: Requests being served.
        ready: 1 while requests are taken.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="clouds", registry=self.registry)
        self.requests = Counter(
            "clouds_requests", "Answers given", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "clouds_request_seconds",
            "From a request's first byte to the answer's last",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "clouds_batch_images",
            "Images per engine call",
            ("engine",),
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=self.registry,
        )
        self.engine_seconds = Histogram(
            "clouds_engine_seconds", "Engine calls", ("engine",), buckets=_SECONDS, registry=self.registry
        )
        self.in_flight = Gauge("clouds_in_flight", "Requests being served", registry=self.registry)
        self.ready = Gauge("clouds_ready", "1 while requests are taken", registry=self.registry)

    def watch_queue(self, engine: str, length: Callable[[], int]) -> None:
        """Adds a gauge of a queue's length."""
        gauge = Gauge(f"clouds_queue_{engine}", f"Waiting for `{engine}`", registry=self.registry)
        gauge.set_function(length)

    def observer(self, engine: str) -> Callable[[int, float], None]:
        """A function that counts a model's calls."""
        batch, seconds = self.batch.labels(engine), self.engine_seconds.labels(engine)

        def observe(items: int, taken: float) -> None:
            batch.observe(items)
            seconds.observe(taken)

        return observe

    def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)
