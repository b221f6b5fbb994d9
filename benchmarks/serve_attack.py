"""A server under attack beside honest clients: their latency, its memory, its log.

    OMP_NUM_THREADS=1 python benchmarks/serve_attack.py BUNDLE --sam SAM_BUNDLE --out RESULT.json

`clouds-deploy serve` runs in its own process. Sixteen honest clients (the good requests of `serve_load.py`)
ask it alone, then for `--seconds` beside all attacks at once, which another process makes: label maps with
thousands of components, one output asked for 400 times and answers as long as requests allow, 2100
connections with half a header, 160 slow bodies, floods of 500 GETs, thin and huge images. Passed if no honest
request failed, the 99th percentile is within three times of that alone, memory stays under `--budget-mib` and
the log under 1 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.serve_load import Log as Answers
from benchmarks.serve_load import client, figures
from benchmarks.serve_requests import Ask, bomb, encode, form, good_requests, tensors
from clouds_deploy.artifacts import environment, write_json

ROOT = Path(__file__).parent.parent
HALF = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-a"
SLOW = (
    b"POST /v1/segment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
)
FLOOD = b"GET /v1/example HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass
class Attack:
    """What the attackers use, and what they got: statuses of answers by kind."""

    host: str
    port: int
    end: float
    scale: float
    asks: dict[str, list[Ask]]
    statuses: dict[str, Counter[str]] = field(default_factory=dict)

    def count(self, kind: str, what: object) -> None:
        """Count an answer."""
        self.statuses.setdefault(kind, Counter())[str(what)] += 1

    def going(self) -> bool:
        """Say whether there is time left."""
        return time.time() < self.end

    async def requests(self, kind: str) -> None:
        """Send requests of a kind, one after the other."""
        async with httpx.AsyncClient(base_url=f"http://{self.host}:{self.port}", timeout=60) as http:
            chance = random.Random(kind)
            while self.going():
                ask = chance.choice(self.asks[kind])
                try:
                    answer = await http.post(ask.path, content=ask.content, headers=ask.headers)
                    self.count(kind, answer.status_code)
                except httpx.TransportError as error:
                    self.count(kind, type(error).__name__)
                    await asyncio.sleep(0.05)

    async def held(self, kind: str, start: bytes, drip: bytes) -> None:
        """Keep a connection on which too little comes; open it again when it is closed."""
        while self.going():
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            except OSError as error:
                self.count(kind, type(error).__name__)
                await asyncio.sleep(0.5)
                continue
            try:
                writer.write(start)
                while self.going():
                    with contextlib.suppress(asyncio.TimeoutError):
                        first = await asyncio.wait_for(reader.read(200), 2)
                        self.count(kind, first[9:12].decode() if first else "closed")
                        break
                    writer.write(drip)
                    await writer.drain()
                else:
                    self.count(kind, "held to the end")
            except OSError:
                self.count(kind, "closed")
            finally:
                writer.close()
            await asyncio.sleep(5)

    async def flood(self, kind: str, count: int) -> None:
        """Send many GETs at once, again and again."""

        async def one() -> None:
            try:
                reader, writer = await asyncio.open_connection(self.host, self.port)
                writer.write(FLOOD)
                first = await asyncio.wait_for(reader.read(200), 30)
                self.count(kind, first[9:12].decode())
                writer.close()
            except (OSError, asyncio.TimeoutError) as error:
                self.count(kind, type(error).__name__)

        while self.going():
            await asyncio.gather(*(one() for _ in range(count)))
            await asyncio.sleep(3)

    async def run(self) -> None:
        """Attack until time is up."""
        many = max(1, round(2100 * self.scale))
        work: list[Awaitable[None]] = [self.held("half headers", HALF, b"a") for _ in range(many)]
        work += [self.held("slow bodies", SLOW, b"x") for _ in range(max(1, round(160 * self.scale)))]
        work += [self.flood("flood of GETs", max(1, round(500 * self.scale)))]
        work += [self.requests(kind) for kind in self.asks]
        await asyncio.gather(*work)


def expensive(about: dict[str, Any], scale: float = 1.0) -> dict[str, list[Ask]]:
    """List requests that cost more than they look, by kind."""
    chance = np.random.default_rng(0)
    boards = []
    for side, cell in ((4000, 127), (4000, 40), (4000, 1), (2400, 160)):  # the last one is allowed
        if scale < 1:
            side, cell = side // 4, -(-cell // 4)
        cells = chance.integers(0, len(about["classes"]), (side // cell, side // cell)).astype(np.uint8)
        labels = cells.repeat(cell, 0).repeat(cell, 1)
        flat = Image.new("RGB", labels.shape[::-1], (90, 90, 90))
        files = {"image": ("a.png", _saved(flat)), "labels": ("l.png", encode(labels, "PNG"))}
        board = form(f"board {cell}", "/v1/refine", files, bad=True)
        if len(board.content) < about["limits"]["bytes"]:
            boards.append(board)
    height, width, model = about["height"], about["width"], about["model"]
    head = {"name": "image", "datatype": "UINT8"}
    one = {**head, "shape": [1, height, width, 3], "parameters": {"binary_data_size": 3 * height * width}}
    twice = {"inputs": [one], "outputs": [{"name": "labels"}] * 400}
    count = min(100, about["limits"]["bytes"] // (3 * height * width) - 1)
    size = count * 3 * height * width
    long = {
        "inputs": [{**head, "shape": [count, height, width, 3], "parameters": {"binary_data_size": size}}]
    }
    deep = b'{"inputs":[' + b"[]," * (about["limits"]["bytes"] // 8) + b"[]]}"
    shapes = [(2, 6000), (6000, 2), (1, 33000), (33000, 1), (1, 70000), (5000, 5000), (1, 1)]
    images = [
        form(
            f"{h}x{w}", path, {"image": ("a.png", _saved(Image.new("RGB", (w, h))))}, {"points": "[[0,0,1]]"}
        )
        for h, w in shapes
        for path in ("/v1/segment?as=overlay", "/v1/refine", "/v1/points")
    ]
    images += [
        form("bomb", "/v1/segment", {"image": ("a.png", bomb(*size))})
        for size in ((4000, 4000), (30000, 30000))
    ]
    return {
        "boards": boards,
        "outputs": [
            tensors("400 outputs", model, twice, bytes(3 * height * width)),
            tensors("a long answer", model, long, bytes(size)),
            Ask("empty lists", f"/v2/models/{model}/infer", deep, {}),
        ],
        "images": images,
    }


def _saved(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class Served:
    """The server, its log in a file."""

    def __init__(self, bundle: Path, log: Path, *options: str) -> None:
        self.log = log
        words = [
            sys.executable,
            "-m",
            "clouds_deploy",
            "serve",
            str(bundle),
            "--port",
            "0",
            "--json",
            *options,
        ]
        with log.open("w") as file:
            self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True)
        while "serving on " not in (said := log.read_text()):
            if self.process.poll() is not None:
                raise RuntimeError(f"the server did not start: {said}")
            time.sleep(0.1)
        self.address = said.split("serving on ")[1].split()[0]

    def memory(self) -> float:
        """Give its resident MiB."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20


async def honest(
    served: Served, good: list[Ask], clients: int, seconds: float
) -> tuple[Answers, list[float]]:
    """Ask good things only; gives the answers, and the server's memory four times a second."""
    log, memory, start = Answers(), [], time.perf_counter()
    bounds = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=served.address, limits=bounds, timeout=60) as http:
        jobs = [
            asyncio.create_task(client(http, good, [], log, start + seconds, i, 0.0)) for i in range(clients)
        ]
        while not all(job.done() for job in jobs):
            memory.append(served.memory())
            await asyncio.sleep(0.25)
        await asyncio.gather(*jobs)
    log.seconds = time.perf_counter() - start
    return log, memory


def measure(
    bundle: Path,
    folder: Path,
    *,
    sam: str,
    clients: int = 16,
    seconds: float = 120.0,
    scale: float = 1.0,
    note: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Ask alone, then beside the attackers; gives both figures, and what the attackers got."""
    served = Served(bundle, folder / "serve.log", "--sam", sam, "--max-seconds", "60")
    about = httpx.get(f"{served.address}/v1/model", timeout=30).json()
    good = good_requests(about, sam != "none")
    asyncio.run(honest(served, good, clients, min(5.0, seconds / 2)))  # warm
    alone = figures(*asyncio.run(honest(served, good, clients, seconds / 2)))
    note(f"alone  {json.dumps(alone)}")
    words = [sys.executable, __file__, "--attack", served.address, str(seconds + 4), str(scale)]
    attackers = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert attackers.stdout is not None
    attackers.stdout.readline()  # they have made what they send
    time.sleep(4)  # until they are all there
    beside = figures(*asyncio.run(honest(served, good, clients, seconds)))
    note(f"beside {json.dumps(beside)}")
    statuses = json.loads(attackers.communicate(timeout=120)[0].strip().splitlines()[-1])
    after = httpx.post(
        served.address + good[0].path, content=good[0].content, headers=good[0].headers, timeout=60
    )
    start = time.perf_counter()
    served.process.terminate()
    out, _ = served.process.communicate(timeout=60)
    return {
        "alone": alone,
        "beside": beside,
        "p99_ratio": round(beside["p99_ms"] / alone["p99_ms"], 2),
        "attackers": statuses,
        "after": after.status_code,
        "log_bytes": served.log.stat().st_size,
        "stop_seconds": round(time.perf_counter() - start, 1),
        "exit_code": served.process.returncode,
        "tally": json.loads(out.strip().splitlines()[-1]),
    }


def attack(address: str, seconds: float, scale: float) -> None:
    """Be the attackers; prints what they got."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    about = httpx.get(f"{address}/v1/model", timeout=30).json()
    host, port = address.removeprefix("http://").split(":")
    asks = expensive(about, scale)
    print("ready", flush=True)
    attackers = Attack(host, int(port), time.time() + seconds, scale, asks)
    asyncio.run(attackers.run())
    print(json.dumps(attackers.statuses))


def main() -> None:
    """Measure, print and write."""
    if sys.argv[1:2] == ["--attack"]:
        attack(sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--sam", default="none")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--budget-mib", type=float, default=2048.0)
    parser.add_argument("--work", type=Path, default=Path("."), help="Folder for the server's log.")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    made = measure(given.bundle, given.work, sam=given.sam, clients=given.clients, seconds=given.seconds)
    made["passed"] = (
        not made["beside"]["good_failed"]
        and made["p99_ratio"] <= 3
        and made["beside"]["memory_mib"]["most"] < given.budget_mib
        and made["log_bytes"] < 10**6
    )
    print(json.dumps(made))
    if given.out:
        write_json(given.out, {"environment": environment(), "load_average_before": before, **made})
    sys.exit(0 if made["passed"] else 1)


if __name__ == "__main__":
    main()
