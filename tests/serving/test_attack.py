"""Requests that are allowed, and that cost more than they look: what they may take, and that they end."""

from __future__ import annotations

import json
import logging
import os
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.serve_load import Server as Process
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.serving.connections import BACKLOG, descriptors
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.limits import Limits
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.model import Batching
from clouds_deploy.serving.serve import bounded_refine
from clouds_deploy.serving.server import Server, listen
from clouds_deploy.serving.sparing import Sparing
from tests.deadly import wait_until
from tests.refinement.fakes import ColourSam
from tests.refinement.test_one_by_one import BoxSam, blobs
from tests.serving.live import Live, live, png, refused
from tests.serving.test_kserve import INFER, binary, images

PHOTO = np.zeros((64, 64, 3), np.uint8)
SLOW = (
    b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
)


@contextmanager
def lines(running: Live, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Connections on which something was sent and nothing is read."""
    opened = []
    try:
        for _ in range(count):
            line = socket.create_connection(running.taken.getsockname(), timeout=10)
            opened.append(line)
            line.sendall(data)
        yield opened
    finally:
        for line in opened:
            line.close()


def closed(line: socket.socket) -> bool:
    line.settimeout(5)
    try:
        while line.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def test_half_sent_headers_shut_nobody_out(small_bundle: Path) -> None:
    """More of them than there are connections; those that are left are closed after a while."""
    limits = Limits(connections=40, header_seconds=1.5)
    with live(small_bundle, limits=limits, sam=False) as running:
        with lines(running, 120, b"GET /health HTTP/1.1\r\nHost: x\r\nX-a") as half:
            start = time.monotonic()
            assert httpx.get(f"{running.address}/health", timeout=5).status_code == 200
            assert running.post("/v1/segment", PHOTO).status_code == 200
            assert time.monotonic() - start < 5
            assert len(running.server.open_connections) <= 41
            assert all(closed(line) for line in half)
        assert time.monotonic() - start < 9
        wait_until(lambda: len(running.server.open_connections) <= 2, 5)


def test_a_connection_that_drips_or_rests_is_closed(small_bundle: Path) -> None:
    limits = Limits(header_seconds=1.0, idle_seconds=1.5)
    with live(small_bundle, limits=limits, sam=False) as running:
        for start in (b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"):
            with lines(running, 1, start + b"GET / HTTP/1.1\r\nX: ") as (line,):
                begun = time.monotonic()
                with pytest.raises(ConnectionError):
                    while time.monotonic() - begun < 8:
                        line.sendall(b"a")
                        time.sleep(0.1)
                assert time.monotonic() - begun < 6


def test_slow_bodies_take_no_seats(small_bundle: Path) -> None:
    limits = Limits(waiting=4, stall_seconds=2.0)
    with live(small_bundle, limits=limits, sam=False) as running, lines(running, 30, SLOW):
        wait_until(lambda: len(running.gate.intake) >= 8)
        assert running.gate.inside == 0
        for _ in range(5):
            assert running.post("/v1/segment", PHOTO).status_code == 200
        assert running.http.get("/v2/health/ready").status_code == 200
        wait_until(lambda: len(running.gate.intake) == 0, 10)  # 408
        assert running.gate.intake.free == running.gate.intake.total


def test_gets_have_seats_too_and_health_needs_none(small_bundle: Path) -> None:
    asked = b"GET /v1/example HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with live(small_bundle, limits=Limits(waiting=4), sam=False) as running:
        with lines(running, 80, asked) as many:
            assert running.http.get("/health").status_code == 200
            assert running.post("/v1/segment", PHOTO).status_code == 200
            codes = {line.recv(12)[9:] for line in many}
        assert codes <= {b"200", b"429"}
        running.gate.looking = 4
        refused(running.http.get("/v1/model"), 429, "others look")
        assert running.http.get("/health").status_code == 200
        running.gate.looking = 0


def test_who_does_not_read_the_answer_holds_nothing_for_long() -> None:
    """Answers of 20 MB that nobody reads: the seats are free again, and the connections closed."""
    limits, metrics = Limits(waiting=4, seconds=2.5, idle_seconds=5.0), Metrics()

    async def long(_: Request) -> Response:
        return Response(bytes(20 * 2**20))

    gate = Gate(Starlette(routes=[Route("/long", long, methods=["GET", "POST"])]), limits, metrics)
    gate.open = True
    taken = listen("127.0.0.1", 0)
    server = Server(gate, "127.0.0.1")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True)
    thread.start()
    wait_until(lambda: server.started)
    http = httpx.Client(base_url=f"http://127.0.0.1:{taken.getsockname()[1]}", timeout=20)
    assert http.get("/health").status_code == 404
    opened = []
    for method in ("GET", "POST") * 4:
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(taken.getsockname())
        line.sendall(f"{method} /long HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n".encode())
        opened.append(line)
    wait_until(lambda: gate.inside == 4 and gate.looking == 4)
    assert http.get("/long").status_code == 429
    wait_until(lambda: gate.inside == gate.looking == 0, 5)
    assert len(http.get("/long").content) == 20 * 2**20
    http.close()
    wait_until(lambda: len(server.open_connections) <= 1, 10)
    wait_until(lambda: not server.open_connections.closing, 10)
    for line in opened:
        line.close()
    server.handle_exit(15, None)
    thread.join(10)
    assert not thread.is_alive()
    assert gate.tally.accepted == 4
    assert gate.tally.answered == 0
    taken.close()


def counting(seconds: float = 0.02) -> tuple[list[float], Callable[..., Any]]:
    """A refinement that goes on until it is stopped."""
    units: list[float] = []

    def refine(image: Any, labels: Any, turn: Any) -> Any:
        for _ in range(1000):
            time.sleep(seconds)
            units.append(time.monotonic())
            turn.pause()
        return labels

    return units, refine


def test_work_stops_when_the_request_is_too_late(small_bundle: Path) -> None:
    units, refine = counting()
    with live(small_bundle, refine=refine, limits=Limits(seconds=0.8)) as running:
        refused(running.post("/v1/refine", PHOTO), 504, "0.8 s")
        time.sleep(0.3)
        count = len(units)
        assert 3 < count < 100
        assert running.post("/v1/points", PHOTO, points="[[5, 5, 1]]").status_code == 200
        assert len(units) == count
        assert running.gate.inside == 0


def test_work_stops_when_the_client_is_gone(small_bundle: Path) -> None:
    units, refine = counting()
    with live(small_bundle, refine=refine) as running:
        form = running.http.build_request("POST", "/v1/refine", files={"image": png(PHOTO)})
        head = (
            f"POST /v1/refine HTTP/1.1\r\nHost: localhost\r\nContent-Type: {form.headers['content-type']}\r\n"
        )
        body = form.read()
        with lines(running, 3, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body):
            wait_until(lambda: len(units) > 5, 10)
        wait_until(lambda: running.gate.inside == 0, 5)
        time.sleep(0.2)
        count = len(units)
        time.sleep(0.2)
        assert len(units) == count < 900


def test_clicks_pass_a_long_refinement(small_bundle: Path) -> None:
    units, refine = counting()
    with live(small_bundle, refine=refine, limits=Limits(seconds=4.0)) as running:
        long = threading.Thread(target=lambda: running.post("/v1/refine", PHOTO))
        long.start()
        wait_until(lambda: len(units) > 3)
        start = time.monotonic()
        assert running.post("/v1/points", PHOTO, points="[[5, 5, 1]]").status_code == 200
        assert time.monotonic() - start < 1.5
        assert len(units) < 150
        long.join(10)


def test_too_many_prompts_are_refused_before_sam_is_asked(small_bundle: Path) -> None:
    sam = BoxSam()
    asked: list[int] = []
    sam.embed = lambda images: asked.append(len(images))  # type: ignore[assignment,method-assign]
    limits = Limits(prompts=50)
    refine = bounded_refine(Refiner(sam, RefineConfig()), limits)
    board = blobs(0, 300, 300, 20)
    with live(small_bundle, refine=refine, limits=limits) as running:
        response = running.post("/v1/refine", np.zeros((*board.shape, 3), np.uint8), labels=board)
        refused(response, 413, "components that SAM would be asked about")
        assert "at most 50" in response.json()["hint"]
    wide = Limits(prompts=256, pixels=100 * 300 * 3)  # 64 times 90000 / 90000 are fewer than 256
    refine = bounded_refine(Refiner(sam, RefineConfig()), wide)
    with live(small_bundle, refine=refine, limits=wide) as running:
        response = running.post("/v1/refine", np.zeros((*board.shape, 3), np.uint8), labels=board)
        refused(response, 413, "at most 64 at this size")
    assert not asked


def test_refinement_within_the_bounds_is_that_of_the_verb(small_bundle: Path) -> None:
    from tests.refinement.fakes import scene

    image, labels = scene(1)
    refiner = Refiner(ColourSam(), RefineConfig())
    (expected,) = refiner.refine([image], [labels])
    with live(small_bundle, refine=bounded_refine(refiner, Limits())) as running:
        from tests.serving.live import picture_of

        found = picture_of(running.post("/v1/refine", image, labels=labels))
    assert np.array_equal(found, expected.labels)


def test_an_answer_that_would_be_too_long_is_refused_before_the_work(small_bundle: Path) -> None:
    calls: list[int] = []

    def wrap(run: Any) -> Any:
        return lambda batch: calls.append(len(batch)) or run(batch)

    size = 64 * 128
    with live(
        small_bundle, limits=Limits(answer_bytes=4 * size), wrap=wrap, sam=False, batching=Batching(1)
    ) as running:
        content, headers = binary(images(4))
        assert running.http.post(INFER, content=content, headers=headers).status_code == 200
        warm = len(calls)
        content, headers = binary(images(5))
        refused(running.http.post(INFER, content=content, headers=headers), 413, f"{5 * size} bytes")
        one = {"name": "image", "datatype": "UINT8", "shape": [2, 64, 128, 3], "data": [0] * (2 * size * 3)}
        response = running.http.post(INFER, json={"inputs": [one]})
        refused(response, 413, "binary data")
        twice = {"inputs": [one], "outputs": [{"name": "labels"}] * 400}
        refused(running.http.post(INFER, json=twice), 400, "asked for twice")
        assert len(calls) == warm
        assert running.gate.intake.free == running.gate.intake.total


def test_a_request_of_many_images_lets_others_pass(small_bundle: Path) -> None:
    def wrap(run: Any) -> Any:
        def slow(batch: list[Any]) -> Any:
            time.sleep(0.02 * len(batch))
            return run(batch)

        return slow

    with live(small_bundle, wrap=wrap, batching=Batching(largest=4), sam=False) as running:
        content, headers = binary(images(100))
        many = [
            threading.Thread(target=lambda: running.http.post(INFER, content=content, headers=headers))
            for _ in range(2)
        ]
        for thread in many:
            thread.start()
        wait_until(lambda: running.gate.inside == 2)
        time.sleep(0.3)
        start = time.monotonic()
        assert running.post("/v1/segment", PHOTO).status_code == 200
        assert time.monotonic() - start < 1.5  # all 200 images take 4 s
        for thread in many:
            thread.join(20)


@pytest.mark.parametrize(
    ("height", "width"), [(2, 6000), (6000, 2), (1, 1), (1, 33000), (33000, 1), (1, 70000), (3, 65501)]
)
def test_thin_and_long_images_are_served_or_refused(small_bundle: Path, height: int, width: int) -> None:
    thin = np.zeros((height, width, 3), np.uint8)
    refine = bounded_refine(Refiner(BoxSam(), RefineConfig()), Limits())
    with live(small_bundle, refine=refine) as running:
        for path in ("/v1/segment", "/v1/segment?as=json", "/v1/refine"):
            assert running.post(path, thin).status_code in (200, 422)
        overlay = running.post("/v1/segment?as=overlay", thin)
        if max(height, width) > 65_500:
            refused(overlay, 422, "too long for a JPEG")
        else:
            assert overlay.status_code == 200
        assert running.gate.inside == 0


@pytest.mark.parametrize("where", ["id", "name", "datatype", "output", "parameter", "shape", "key"])
def test_half_of_a_surrogate_pair(small_bundle: Path, where: str) -> None:
    lone = "\ud800"
    one: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [1, 64, 128, 3], "data": [1]}
    request: dict[str, Any] = {"inputs": [one], "outputs": [{"name": "labels"}], "id": "a"}
    if where == "id":
        request["id"] = lone
    elif where == "output":
        one["data"] = [0] * (64 * 128 * 3)
        request["outputs"][0]["name"] = lone
    elif where == "parameter":
        request["outputs"][0]["parameters"] = {"binary_data": lone}
        one["data"] = [0] * (64 * 128 * 3)
    elif where == "key":
        request[lone] = one[lone] = {lone: lone}
    else:
        one[where] = lone if where != "shape" else [lone]
    with live(small_bundle, sam=False) as running:
        response = running.http.post(INFER, content=json.dumps(request).encode())
        assert 400 <= response.status_code < 500
        assert response.json()["error"]
        points = running.post("/v1/points", PHOTO, points=json.dumps([[lone, 1, 1]]))
        assert 400 <= points.status_code < 500
        assert running.http.get(f"/v2/models/%ED%A0%80/config?{'%ED%A0%80'}=1").status_code == 404


def test_a_log_cannot_be_filled(caplog: pytest.LogCaptureFixture) -> None:
    logger, one = logging.getLogger("tests.sparing"), Sparing(burst=5, seconds=0.2)
    logger.addFilter(one)

    def warn(i: int) -> None:
        logger.warning("request %d is invalid", i)

    for i in range(1000):
        warn(i)
    assert len(caplog.records) == 5
    logger.error("another message")
    time.sleep(0.25)
    warn(1000)
    assert caplog.messages[-2:] == [
        "another message",
        "request 1000 is invalid (and 995 such messages that are not shown)",
    ]
    for i in range(500):
        logger.warning(f"message {i}")
    assert len(caplog.records) < 100


def test_few_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (512, 512))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    held = len(os.listdir("/proc/self/fd"))
    assert 16 <= descriptors() <= max(16, 512 - held - 3 * BACKLOG)


def test_sigterm_with_stalled_bodies_and_half_headers(small_bundle: Path) -> None:
    """What has not arrived is not waited for; nothing else is lost, and the log stays short."""
    server = Process(small_bundle, "--sam", "none", "--max-seconds", "20")
    host, port = server.address.removeprefix("http://").split(":")
    opened = []
    for data in (SLOW, b"GET / HTTP/1.1\r\n", b"", b"\0\r\n\r\n") * 40:
        line = socket.create_connection((host, int(port)))
        line.sendall(data)
        opened.append(line)
    files = {"image": png(PHOTO)}
    assert httpx.post(f"{server.address}/v1/segment", files=files, timeout=20).status_code == 200
    start = time.monotonic()
    server.signal()
    code, tally, said = server.wait()
    assert time.monotonic() - start < 6
    assert (code, tally["accepted"], tally["answered"]) == (0, 1, 1)
    assert len(said) < 5000
    assert "Traceback" not in said
    for line in opened:
        line.close()
