"""`clouds-deploy serve` as a process: what SIGTERM does, what it says, what it exits with."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from benchmarks.serve_load import Server, load
from clouds_deploy.data.images import read_label_ids, write_png
from clouds_deploy.serving.server import listen
from clouds_deploy.streets import render
from tests.cli.conftest import run
from tests.deadly import wait_until
from tests.serving.live import picture_of, png


@pytest.fixture(scope="module")
def server(small_bundle: Path) -> Iterator[Server]:
    running = Server(small_bundle, "--name", "street", "--max-seconds", "100")  # two busy cores suffice
    yield running
    if running.process.poll() is None:
        running.signal()
        running.wait()


def test_everything_from_the_command_line(server: Server, tmp_path: Path) -> None:
    """The SAM that the package has, the refinement stage, and exit code 0 at the end."""
    scene = render("photo", 0, 0, 90, 160)
    files = {"image": ("a.png", png(scene.image)), "labels": ("l.png", png(scene.labels))}
    with httpx.Client(base_url=server.address, timeout=110) as http:
        about = http.get("/v1/model").json()
        assert (about["model"], about["sam"]) == ("street", "sam_tiny")
        refined = picture_of(http.post("/v1/refine", files=files))
        write_png(tmp_path / "images" / "a.png", scene.image)
        write_png(tmp_path / "labels" / "a.png", scene.labels)
        words = ("--images", tmp_path / "images", "--labels", tmp_path / "labels", "--out", tmp_path / "out")
        assert run("refine", "--sam", "sam_tiny", *words).returncode == 0
        expected = read_label_ids(tmp_path / "out" / "labels" / "a.png")
        assert (refined == expected).mean() > 0.999  # the same as the verb `refine`
        assert (refined != 255).mean() > 0.5
        mask = picture_of(http.post("/v1/points", files=files, data={"points": "[[80, 80, 1]]"}))
        assert set(np.unique(mask)) <= {0, 255}
        assert mask[80, 80] == 255
        page = http.get("/")
        assert "Drop a street photo" in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
    server.signal()
    code, tally, said = server.wait()
    assert code == 0
    assert tally == {"accepted": 2, "answered": 2, "refused": 0}
    assert "Traceback" not in said


@pytest.mark.parametrize("sign", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_in_the_middle(small_bundle: Path, sign: signal.Signals) -> None:
    """What was let in is answered, byte for byte; what comes later is not let in."""
    server = Server(small_bundle, "--sam", "none", "--batch", "2", "--delay-ms", "300")
    data = png(np.zeros((600, 900, 3), np.uint8))
    statuses: list[int] = []
    lost: list[str] = []

    def ask() -> None:
        while True:
            try:
                response = httpx.post(f"{server.address}/v1/segment", files={"image": data}, timeout=30)
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:
                lost.append(type(error).__name__)
                return
            statuses.append(response.status_code)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: statuses.count(200) >= 8, 30)
    server.process.send_signal(sign)
    for thread in threads:
        thread.join(30)
    code, tally, said = server.wait()
    assert code == 0
    assert tally["accepted"] == tally["answered"] == statuses.count(200)
    assert tally["refused"] == statuses.count(503)
    assert set(statuses) <= {200, 503}
    assert "Traceback" not in said


@pytest.mark.slow
def test_many_clients_for_a_while(small_bundle: Path) -> None:
    """The short version of benchmarks/serve_load.py: good and bad requests, then SIGTERM under load."""
    server = Server(small_bundle, "--sam", "none")
    log, memory = asyncio.run(load(server, 16, 2.0, sam=False))
    assert not log.failed
    assert not log.strange
    assert sum(map(len, log.good.values())) > 8
    assert sum(log.bad.values()) > 2
    assert max(memory) < 1500
    log, _ = asyncio.run(load(server, 16, 20.0, stop_after=0.7, sam=False))
    code, tally, said = server.wait()
    assert code == 0
    assert tally["accepted"] == tally["answered"]
    assert all(" 503 " in fault for fault in [*log.failed, *log.strange])
    assert "Traceback" not in said


def test_a_taken_port(small_bundle: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("serve", small_bundle, "--port", port)
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--backend", "nothing"), "no backend `nothing`"),
        (("--sam", "vit_x"), "no SAM `vit_x`"),
        (("--sam", "vit_b"), "needs its weights"),
        (("--max-seconds", "0"), "`seconds`"),
    ],
)
def test_what_is_typed_wrong(small_bundle: Path, words: tuple[str, ...], said: str) -> None:
    done = run("serve", small_bundle, "--port", "0", *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_packages_that_are_not_there(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clouds_deploy.serving import serve

    monkeypatch.setattr(serve, "installed", lambda name: name != "python_multipart")
    done = run("serve", small_bundle)
    assert done.returncode == 2
    assert "serving needs python-multipart" in done.stderr
    assert "clouds-deploy[serve]" in done.stderr


def test_no_bundle(tmp_path: Path) -> None:
    done = run("serve", tmp_path / "none", "--port", "0")
    assert done.returncode == 2
    assert "there is no directory" in done.stderr


def test_people_are_told(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "clouds_deploy.serving.serve.serve", lambda *_, **__: {"accepted": 3, "answered": 3, "refused": 1}
    )
    done = run("serve", small_bundle)
    assert done.stdout == "stopped: 3 requests accepted, 3 answered, 1 refused\n"
    assert json.loads(run("serve", small_bundle, "--json").stdout)["accepted"] == 3


def test_any_address() -> None:
    with listen("localhost", 0) as taken:
        assert taken.getsockname()[1] > 0
