"""A server under load: many clients at once, good requests and bad ones, and SIGTERM in the middle.

    OMP_NUM_THREADS=1 python benchmarks/serve_load.py BUNDLE --out benchmarks/results/serve_load.json

For each setting `clouds-deploy serve` is started in its own process, and loaded over loopback by this one
for `--seconds`. Every good request must be answered 200 with what was asked for, every bad one 4xx with a
reason, and the server's memory must not grow. Then it is loaded again and told to stop half way: it must
answer all that it let in, and exit 0. Server and clients share the machine's cores, so the figures are those
of both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.serve_requests import Ask, bad_requests, good_requests
from clouds_deploy.artifacts import environment, write_json

ROOT = Path(__file__).parent.parent
SHARE_OF_BAD = 0.2


@dataclass
class Log:
    """What the clients saw.

    Attributes:
        good: Milliseconds of every good request that was answered well, by kind.
        failed: Good requests that were not, by what came instead.
        bad: Statuses of bad requests that were answered 4xx with a reason.
        strange: Bad requests that were not.
        answers: Answers read to their end, whatever they were.
        unanswered: Requests whose connection ended without an answer: never let in, if the server keeps its
            word.
        seconds: From the first question to the last answer.
    """

    good: dict[str, list[float]] = field(default_factory=dict)
    failed: Counter[str] = field(default_factory=Counter)
    bad: Counter[int] = field(default_factory=Counter)
    strange: Counter[str] = field(default_factory=Counter)
    answers: int = 0
    unanswered: int = 0
    seconds: float = 0.0


class Server:
    """`clouds-deploy serve` in a process of its own; `said` is what it wrote until it took requests."""

    def __init__(self, bundle: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "clouds_deploy", "serve", str(bundle), "--port", "0", "--json", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert self.process.stderr is not None
        self.said = seen = list[str]()
        for line in self.process.stderr:
            seen.append(line)
            if "serving on " in line:
                self.address = line.split("serving on ")[1].split()[0]
                return
        raise RuntimeError(f"the server did not start: {''.join(seen)}")

    def memory(self) -> float:
        """Give its resident MiB."""
        return float(psutil.Process(self.process.pid).memory_info().rss) / 2**20

    def signal(self) -> None:
        """Tell it to stop."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> tuple[int, dict[str, int], str]:
        """Wait until it has stopped: exit code, tally, and what it said on the way."""
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, json.loads(out.strip().splitlines()[-1]) if out.strip() else {}, err


async def client(
    http: httpx.AsyncClient,
    good: list[Ask],
    bad: list[Ask],
    log: Log,
    end: float,
    seed: int,
    share: float = SHARE_OF_BAD,
) -> None:
    """Ask one thing after the other, a share of them bad, until time is up, or nobody answers."""
    chance = random.Random(seed)
    while time.perf_counter() < end:
        ask = chance.choice(bad if chance.random() < share else good)
        start = time.perf_counter()
        try:
            response = await http.post(ask.path, content=ask.content, headers=ask.headers)
        except httpx.ConnectError:
            return
        except httpx.TransportError:
            log.unanswered += 1
            continue
        log.answers += 1
        taken = 1e3 * (time.perf_counter() - start)
        fault = ask.fault(response)
        if not ask.bad and fault is None:
            log.good.setdefault(ask.name, []).append(taken)
        elif not ask.bad:
            log.failed[f"{ask.name}: {fault}"] += 1
        elif fault is None:
            log.bad[response.status_code] += 1
        else:
            log.strange[f"{ask.name}: {fault}"] += 1


async def load(
    server: Server, clients: int, seconds: float, *, stop_after: float | None = None, sam: bool = True
) -> tuple[Log, list[float]]:
    """Load a server; gives what the clients saw and the server's memory, twice a second."""
    log, memory = Log(), []
    bounds = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=server.address, limits=bounds, timeout=130) as http:
        about = (await http.get("/v1/model")).json()
        good, bad = good_requests(about, sam), bad_requests(about)
        end = time.perf_counter() + seconds
        jobs = [asyncio.create_task(client(http, good, bad, log, end, seed)) for seed in range(clients)]
        start, told = time.perf_counter(), False
        while not all(job.done() for job in jobs):
            await asyncio.sleep(0.05 if stop_after else 0.5)
            if not told:
                memory.append(server.memory())
            if stop_after and not told and time.perf_counter() - start > stop_after:
                server.signal()
                told = True
        await asyncio.gather(*jobs)
        log.seconds = time.perf_counter() - start
    return log, memory


def figures(log: Log, memory: list[float]) -> dict[str, Any]:
    """Sum up."""
    everything = [value for values in log.good.values() for value in values]
    quarter = max(1, len(memory) // 4)
    return {
        "good": len(everything),
        "good_failed": dict(log.failed),
        "bad_refused": {str(status): count for status, count in sorted(log.bad.items())},
        "bad_not_refused": dict(log.strange),
        "good_per_second": round(len(everything) / log.seconds, 2),
        **{f"p{share}_ms": round(float(np.percentile(everything, share)), 1) for share in (50, 90, 99)},
        "by_kind": {
            name: {"count": len(values), "p99_ms": round(float(np.percentile(values, 99)), 1)}
            for name, values in sorted(log.good.items())
        },
        "memory_mib": {
            "second_quarter": round(float(np.median(memory[quarter : 2 * quarter] or memory)), 1),
            "last_quarter": round(float(np.median(memory[-quarter:])), 1),
            "most": round(max(memory), 1),
        },
    }


def mean_batch(server: Server) -> float:
    """Images per call so far, by the server's metrics."""
    text = httpx.get(f"{server.address}/metrics").text
    values = {
        line.split()[0]: float(line.split()[1])
        for line in text.splitlines()
        if line.startswith("clouds_batch_images_") and 'engine="segmenter"' in line
    }
    return (
        values['clouds_batch_images_sum{engine="segmenter"}']
        / values['clouds_batch_images_count{engine="segmenter"}']
    )


def everything(bundle: Path, clients: int, seconds: float, options: tuple[str, ...]) -> dict[str, Any]:
    """All kinds of requests, with clicks and refinement, at a server as it comes."""
    server = Server(bundle, *options)
    log, memory = asyncio.run(load(server, clients, seconds))
    result = {**figures(log, memory), "mean_batch": mean_batch(server)}
    server.signal()
    code, tally, said = server.wait()
    return {**result, "exit_code": code, "tally": tally, "said": said}


def batching(
    bundle: Path, clients: int, seconds: float, options: tuple[str, ...], rounds: int = 6
) -> dict[str, Any]:
    """Two servers without SAM, one that gathers up to 8 images a call and one that does not, interleaved."""
    servers = {size: Server(bundle, *options, "--sam", "none", "--batch", size) for size in ("8", "1")}
    logs: dict[str, list[Log]] = {size: [] for size in servers}
    memory: dict[str, list[float]] = {size: [] for size in servers}
    for turn in range(rounds):
        for size in sorted(servers, reverse=bool(turn % 2)):
            log, seen = asyncio.run(load(servers[size], clients, seconds / rounds, sam=False))
            logs[size].append(log)
            memory[size] += seen
    made: dict[str, Any] = {"clients": clients}
    for size, server in servers.items():
        made[f"up to {size} per call"] = {
            **figures(merge(logs[size]), memory[size]),
            "mean_batch": mean_batch(server),
        }
        server.signal()
        code, tally, said = server.wait()
        made[f"up to {size} per call"] |= {"exit_code": code, "tally": tally, "said": said}
    rates = {size: [answered(log) / log.seconds for log in logs[size]] for size in logs}
    ratios = [a / b for a, b in zip(rates["8"], rates["1"], strict=True)]
    made["throughput_ratio"] = {
        "median": round(float(np.median(ratios)), 3),
        "rounds": [round(ratio, 3) for ratio in ratios],
    }
    return made


def answered(log: Log) -> int:
    """Count good requests that were answered well."""
    return sum(map(len, log.good.values()))


def merge(logs: list[Log]) -> Log:
    """Put rounds together."""
    whole = Log()
    for log in logs:
        for name, values in log.good.items():
            whole.good.setdefault(name, []).extend(values)
        whole.failed += log.failed
        whole.bad += log.bad
        whole.strange += log.strange
        whole.answers += log.answers
        whole.unanswered += log.unanswered
        whole.seconds += log.seconds
    return whole


def stop(bundle: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Load a server and tell it to stop half way."""
    server = Server(bundle)
    log, _ = asyncio.run(load(server, clients, 4 * seconds, stop_after=seconds))
    code, tally, said = server.wait()
    return {
        "exit_code": code,
        "tally": tally,
        "answers_read": log.answers,
        "good": answered(log),
        "good_failed": dict(log.failed),
        "unanswered": log.unanswered,
        "said": said,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--backend", default="onnxruntime")
    given = parser.parse_args()
    backend = ("--backend", given.backend, "--max-seconds", "120")
    report: dict[str, Any] = {
        "environment": environment(),
        "clients": given.clients,
        "seconds": given.seconds,
        "share_of_bad": SHARE_OF_BAD,
        "load_average_before": os.getloadavg()[0],
        "runs": {},
    }
    for name, make in {
        "everything": lambda: everything(given.bundle, given.clients, given.seconds, backend),
        "batching": lambda: batching(given.bundle, given.clients, given.seconds, backend),
        "one client": lambda: batching(given.bundle, 1, given.seconds / 4, backend),
        "stopped half way": lambda: stop(given.bundle, given.clients, 5.0),
    }.items():
        report["runs"][name] = make()
        print(f"{name}\n  {json.dumps(report['runs'][name])}", flush=True)
    if given.out:
        write_json(given.out, report)


if __name__ == "__main__":
    main()
