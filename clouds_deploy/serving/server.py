"""One process that serves until it is told to stop."""

from __future__ import annotations

import signal
import socket
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from PIL import Image

from clouds_deploy.errors import CloudsError
from clouds_deploy.serving.app import make_app
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.limits import Limits
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.model import Batching, ServedModel
from clouds_deploy.serving.promptable import PointSam, Promptable, Refine


@dataclass(frozen=True)
class Service:
    """What to serve, and how.

    Attributes:
        bundle: Its directory.
        backend: The runtime.
        name: What clients call the model; None takes the recipe's name.
        threads: Threads per engine call; None leaves it to the runtime.
        batching: How requests share an engine call.
        limits: The bounds.
        host: Where to listen.
        port: 0 takes any that is free.
    """

    bundle: Path
    backend: str = "onnxruntime"
    name: str | None = None
    threads: int | None = None
    batching: Batching = field(default_factory=Batching)
    limits: Limits = field(default_factory=Limits)
    host: str = "127.0.0.1"
    port: int = 8000


class Server(uvicorn.Server):
    """uvicorn, which closes the gate the moment a signal comes."""

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
        """See `uvicorn.Server.handle_exit`; what is inside is finished, nothing more is let in."""
        self.gate.open = False
        self.gate.metrics.ready.set(0)
        super().handle_exit(sig, frame)


def listen(host: str, port: int) -> socket.socket:
    """Take a port before anything is loaded.

    Args:
        host: An address, or a name of one.
        port: 0 takes any that is free.

    Raises:
        CloudsError: It cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise CloudsError(
            f"cannot listen on {host}:{port}: {error}", "choose another --port or --host"
        ) from error


def serve(
    service: Service,
    open_sam: Callable[[], tuple[PointSam, Refine]] | None = None,
    started: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Serve until SIGTERM or SIGINT, then finish what was let in.

    Args:
        service: What to serve.
        open_sam: Loads a SAM, and what mends labels with it; None serves neither.
        started: Told the address once requests are taken.

    Returns:
        The gate's tally.

    Raises:
        CloudsError: The port is taken, or the bundle or the SAM cannot be opened.
    """
    with listen(service.host, service.port) as taken:
        metrics = Metrics()
        model = ServedModel(
            service.bundle,
            service.backend,
            name=service.name,
            threads=service.threads,
            batching=service.batching,
            metrics=metrics,
        )
        waiting = service.limits.waiting
        sam = Promptable(*open_sam(), waiting=waiting, metrics=metrics) if open_sam else None
        return _run(make_app(model, sam, service.limits, metrics), taken, started or (lambda _: None))


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
    # uvicorn raises the signal again after it ended well; that it was asked to stop is no failure
    before = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        server.run(sockets=[taken])
    finally:
        quiet.set()
        watcher.join()
        for sig, handler in before.items():
            signal.signal(sig, handler)
    return gate.tally.to_json()
