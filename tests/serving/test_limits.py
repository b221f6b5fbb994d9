"""What a stranger can send, and what the server does not do then."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from benchmarks.serve_requests import bomb
from clouds_deploy.errors import CloudsError
from clouds_deploy.serving.limits import DECODABLE, Limits
from clouds_deploy.serving.model import Batching
from tests.deadly import wait_until
from tests.serving.live import Live, live, png, refused

PHOTO = np.zeros((64, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def narrow(small_bundle: Path) -> Iterator[Live]:
    with live(small_bundle, limits=Limits(body_bytes=2**16, pixels=4096, seconds=2.0)) as running:
        yield running


def raw(running: Live, data: bytes, *, wait: float = 10.0) -> bytes:
    """Talk without a client's good manners."""
    host, port = running.taken.getsockname()
    with socket.create_connection((host, port), timeout=wait) as line:
        line.sendall(data)
        got = b""
        while part := line.recv(65536):
            got += part
        return got


def test_too_many_bytes(narrow: Live) -> None:
    refused(narrow.post("/v1/segment", bytes(2**16)), 413, "65536 bytes")
    refused(narrow.http.post("/v2/models/small/infer", content=bytes(2**17)), 413, "65536 bytes")


def test_too_many_bytes_without_saying_so(narrow: Live) -> None:
    def parts() -> Iterator[bytes]:
        for _ in range(400):
            yield bytes(2**16)

    refused(narrow.http.post("/v2/models/small/infer", content=parts()), 413, "65536 bytes")


def test_who_announces_too_much_is_not_read(narrow: Live) -> None:
    """With `Expect: 100-continue`, as curl sends it, not a byte of the body ever travels."""
    head = (
        b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        b"Content-Length: 99999999\r\nContent-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    answer = raw(narrow, head)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"hint"' in answer


@pytest.mark.parametrize("length", [b"9" * 19, b"9" * 5000, b"-5", b"x"])
def test_lengths_that_are_none(narrow: Live, length: bytes) -> None:
    head = b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: "
    assert raw(narrow, head + length + b"\r\n\r\n")[9:12] in (b"400", b"413")
    assert narrow.http.get("/health").status_code == 200


def test_too_many_pixels(narrow: Live) -> None:
    assert narrow.post("/v1/segment", PHOTO).status_code == 200
    refused(narrow.post("/v1/segment", np.zeros((65, 64, 3), np.uint8)), 413, "4096 pixels")
    big = np.zeros((65, 64), np.uint8)
    refused(narrow.post("/v1/refine", PHOTO, labels=big), 413, "4096 pixels")


def test_bombs_cost_no_memory(small_bundle: Path) -> None:
    """A few kB that would decode to gigabytes; headers that lie about sizes."""
    with live(small_bundle) as running:
        assert running.post("/v1/segment", PHOTO).status_code == 200
        before = psutil.Process().memory_info().rss
        for size in ((30000, 30000), (12000, 12000), (2**31 - 1, 2**31 - 1)):
            refused(running.post("/v1/segment", bomb(*size)), 413, "pixels")
            refused(running.post("/v1/refine", PHOTO, labels=bomb(*size)), 413, "pixels")
        refused(running.post("/v1/segment", bomb(4000, 4000)), 422, "damaged")
        assert psutil.Process().memory_info().rss - before < 150 * 2**20
        assert running.post("/v1/segment", PHOTO).status_code == 200


def test_a_slow_sender(narrow: Live) -> None:
    head = (
        b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
    )
    start = time.monotonic()
    answer = raw(narrow, head)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"send it faster" in answer
    assert time.monotonic() - start < 8
    wait_until(lambda: narrow.gate.inside == 0, seconds=1)


def test_who_hangs_up_leaves_nothing_behind(narrow: Live) -> None:
    host, port = narrow.taken.getsockname()
    for _ in range(5):
        line = socket.create_connection((host, port))
        line.sendall(
            b"POST /v1/segment HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
        )
        line.close()
    wait_until(lambda: narrow.gate.inside == 0, seconds=5)
    assert narrow.gate.intake.free == narrow.gate.intake.total
    assert narrow.post("/v1/segment", PHOTO).status_code == 200


def slow(seconds: float) -> Any:
    def wrap(run: Any) -> Any:
        def waits(batch: list[Any]) -> Any:
            time.sleep(seconds)
            return run(batch)

        return waits

    return wrap


def test_no_answer_in_time(small_bundle: Path) -> None:
    """Who timed out is not computed later, and the next ones are served."""
    with live(
        small_bundle, limits=Limits(seconds=0.5), batching=Batching(1), wrap=slow(0.8), sam=False
    ) as running:
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(running.post("/v1/segment", PHOTO).status_code))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert statuses == [504] * 4
        refused(running.post("/v1/segment", PHOTO), 504, "0.5 s")
        time.sleep(0.9)
        assert len(running.model.queue) == 0
        assert running.gate.inside == 0
        assert running.gate.tally.accepted == running.gate.tally.answered == 5


def test_too_many_at_once(small_bundle: Path) -> None:
    with live(
        small_bundle, limits=Limits(waiting=4), batching=Batching(1), wrap=slow(0.3), sam=False
    ) as running:
        statuses: list[int] = []

        def ask() -> None:
            response = running.post("/v1/segment", PHOTO)
            statuses.append(response.status_code)
            if response.status_code == 429:
                refused(response, 429, "being served")
                assert response.headers["retry-after"] == "1"

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        assert (
            running.http.get("/v2/health/ready").status_code == 200
        )  # health answers when nothing else does
        for thread in threads:
            thread.join(20)
        assert sorted(statuses) == [200] * 4 + [429] * 6
        assert running.gate.tally.refused == 6


def test_memory_of_bodies_is_a_queue(small_bundle: Path) -> None:
    """Eight bodies of the largest size fit; more wait outside, and all are served in the end."""
    limits = Limits(body_bytes=2**20, seconds=20.0)
    with live(small_bundle, limits=limits, wrap=slow(0.05), sam=False) as running:
        noise = np.random.default_rng(0).integers(0, 256, (500, 600, 3)).astype(np.uint8)
        data = png(noise)
        assert 0.8 * 2**20 < len(data) < 2**20
        least = [running.gate.intake.free]
        statuses: list[int] = []
        threads = [
            threading.Thread(target=lambda: statuses.append(running.post("/v1/segment", data).status_code))
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            least.append(running.gate.intake.free)
            time.sleep(0.001)
        assert statuses == [200] * 16
        assert 0 <= min(least) < 2**20
        wait_until(lambda: running.gate.intake.free == running.gate.intake.total, seconds=1)


def test_limits_make_sense() -> None:
    with pytest.raises(CloudsError, match="`seconds`"):
        Limits(seconds=0)
    with pytest.raises(CloudsError, match="Pillow"):
        Limits(pixels=DECODABLE + 1)


def test_a_closed_gate(small_bundle: Path) -> None:
    with live(small_bundle, sam=False) as running:
        running.gate.open = False
        refused(running.post("/v1/segment", PHOTO), 503, "no requests now")
        assert running.http.get("/v2/health/ready").status_code == 503
        assert running.http.get("/v2/health/live").status_code == 200
        running.gate.open = True
        assert running.post("/v1/segment", PHOTO).status_code == 200
