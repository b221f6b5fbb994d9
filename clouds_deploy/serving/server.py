"""The server process: listens, serves until a signal, answers what it accepted."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from PIL import Image

from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.serve import ServeOptions
from clouds_deploy.console import say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import LabelSet
from clouds_deploy.serving.access import access, tls_files
from clouds_deploy.serving.app import make_app
from clouds_deploy.serving.connections import BACKLOG, Connection, Connections
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.limits import Limits
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.model import Batching, ServedModel
from clouds_deploy.serving.promptable import PointSam, Promptable, Refine
from clouds_deploy.serving.sparing import spared

_QUEUE = 2048
_HANDSHAKE = 5.0
"""Seconds for the start of TLS."""
_SWEEP = 0.5


class Server(uvicorn.Server):
    """uvicorn that closes the gate as soon as a signal comes, and bounds its connections."""

    def __init__(self, gate: Gate, host: str, tls: Mapping[str, str] | None = None) -> None:
        self.gate = gate
        self.open_connections = Connections(gate.limits)
        super().__init__(
            uvicorn.Config(
                gate,
                host=host,
                http=Connection,
                ws="none",
                lifespan="on",
                log_level="warning",
                access_log=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_keep_alive=int(gate.limits.idle_seconds) + 5,  # `Connections` decides before
                timeout_graceful_shutdown=int(gate.limits.seconds) + 5,
                **cast("Any", tls or {}),
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See `uvicorn.Server.handle_exit`; accepted requests are finished, no more are accepted."""
        self.gate.open = False
        self.gate.metrics.ready.set(0)
        super().handle_exit(sig, frame)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.startup`; listens with connections of our own."""
        await super().startup(sockets=[])
        if self.should_exit:
            return
        loop = asyncio.get_running_loop()
        tls, seconds = self.config.ssl, _HANDSHAKE if self.config.ssl else None

        def connect() -> Connection:
            return Connection(
                self.open_connections, self.config, self.server_state, self.lifespan.state, _loop=loop
            )

        for taken in sockets or []:
            self.servers.append(
                await loop.create_server(
                    connect, sock=taken, backlog=BACKLOG, ssl=tls, ssl_handshake_timeout=seconds
                )
            )
            taken.listen(_QUEUE)  # the loop accepts a few at a time; the others wait in the kernel
        self._sweeping = asyncio.ensure_future(self._sweep())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See `uvicorn.Server.shutdown`; what has not arrived is given up."""
        self.gate.stop()
        await super().shutdown(sockets)
        self._sweeping.cancel()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP)
            self.open_connections.sweep()
            if not self.gate.open:
                self.gate.intake.stop()


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
        return socket.create_server((host, port), family=family, backlog=_QUEUE)
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
    tls = tls_files(options)
    with listen(options.host, options.port) as taken:
        allowed = access(options, taken.getsockname()[0])
        if not allowed.loopback and allowed.token is None:
            warn(
                f"everybody who reaches {options.host} can use this server; "
                "--token-file asks for a token, and --host 127.0.0.1 is for this machine only"
            )
        metrics = Metrics()
        model = ServedModel(
            bundle,
            options.backend,
            name=options.name,
            device=options.device,
            threads=options.threads,
            batching=Batching(options.batch, options.delay_ms / 1e3, limits.waiting),
            metrics=metrics,
            vocabulary=None if options.vocabulary is None else Vocabulary.load(options.vocabulary),
        )
        say(f"  serve        {model.name}: {options.backend} on {model.session.device}")
        sam = None
        if open_sam is not None:
            opened = open_sam(model.bundle.label_set)
            sam = Promptable(*opened, waiting=limits.waiting, metrics=metrics)
        return _run(make_app(model, sam, limits, metrics, allowed), taken, tls, started or (lambda _: None))


def _run(
    gate: Gate, taken: socket.socket, tls: Mapping[str, str], started: Callable[[str], None]
) -> dict[str, Any]:
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `Limits.pixels` decides
    host, port = taken.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    server = Server(gate, host, tls)

    def announce() -> None:
        while not gate.open and not server.should_exit:
            if quiet.wait(0.02):
                return
        if gate.open:
            started(f"http{'s' if tls else ''}://{shown}:{port}")

    quiet = threading.Event()
    watcher = threading.Thread(target=announce, daemon=True)
    watcher.start()
    # uvicorn raises the signal again after it ended; being asked to stop is not a failure
    before = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGTERM, signal.SIGINT)}
    try:
        with spared():
            server.run(sockets=[taken])
    finally:
        quiet.set()
        watcher.join()
        for sig, handler in before.items():
            signal.signal(sig, handler)
    return gate.tally.to_json()
