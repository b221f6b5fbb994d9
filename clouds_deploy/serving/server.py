"""The server process: listens, serves until a signal, answers what it accepted."""

from __future__ import annotations

import signal
import socket
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image

from clouds_deploy.config.serve import ServeOptions
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import LabelSet
from clouds_deploy.serving.app import make_app
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.limits import Limits
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.model import Batching, ServedModel
from clouds_deploy.serving.promptable import PointSam, Promptable, Refine


class Server(uvicorn.Server):
    """uvicorn that closes the gate as soon as a signal comes."""

    def __init__(self, gate: Gate, host: str) -> None:
        self.gate = gate
        super().__init__(
            uvicorn.Config(
                gate,
                host=host,
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=int(gate.limits.seconds) + 5,
                limit_concurrency=16 * gate.limits.waiting,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server.handle_exit`; accepted requests are finished, no more are accepted."""
        self.gate.open = False
        self.gate.metrics.ready.set(0)
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """A socket on a port, taken before anything is loaded.

    Args:
        host: An address, or a name of one.
        port: 0 takes any free one.

    Raises:
        CloudsError: The port is taken, or the address is not this machine's.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise CloudsError(
            f"cannot listen on {host}:{port}: {error}", "choose another --port or --host"
        ) from error


def run_server(
    bundle: Path,
    options: ServeOptions,
    limits: Limits,
    open_sam: Callable[[LabelSet], tuple[PointSam, Refine]] | None = None,
    started: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Serves until SIGTERM or SIGINT, then finishes what was accepted.

    Args:
        bundle: The bundle's directory.
        options: How to serve it.
        limits: Bounds of requests.
        open_sam: Opens a SAM, and what refines labels of a label set with it; None serves neither.
        started: Called with the address once requests are taken.

    Returns:
        The gate's tally.

    Raises:
        CloudsError: The port is taken, or the bundle or the SAM cannot be opened.
    """
    with listen(options.host, options.port) as taken:
        metrics = Metrics()
        model = ServedModel(
            bundle,
            options.backend,
            name=options.name,
            device=options.device,
            threads=options.threads,
            batching=Batching(options.batch, options.delay_ms / 1e3, limits.waiting),
            metrics=metrics,
        )
        say(f"  serve        {model.name}: {options.backend} on {model.session.device}")
        sam = None
        if open_sam is not None:
            opened = open_sam(model.bundle.label_set)
            sam = Promptable(*opened, waiting=limits.waiting, metrics=metrics)
        return _run(make_app(model, sam, limits, metrics), taken, started or (lambda _: None))


def _run(gate: Gate, taken: socket.socket, started: Callable[[str], None]) -> dict[str, Any]:
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `Limits.pixels` decides
    host, port = taken.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = Server(gate, host)

    def announce() -> None:
        while not gate.open and not server.should_exit:
            if quiet.wait(0.02):
                return
        if gate.open:
            started(f"http://{shown}:{port}")

    quiet = threading.Event()
    watcher = threading.Thread(target=announce, daemon=True)
    watcher.start()
    # uvicorn raises the signal again after it ended; being asked to stop is not a failure
    before = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[taken])
    finally:
        quiet.set()
        watcher.join()
        for sig, handler in before.items():
            signal.signal(sig, handler)
    return gate.tally.to_json()
