"""A server in a thread, on a real port: what clients meet is uvicorn, not a simulation of it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from clouds_deploy.serving.access import Access
from clouds_deploy.serving.app import make_app
from clouds_deploy.serving.gate import Gate
from clouds_deploy.serving.limits import Limits
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.model import Batching, ServedModel
from clouds_deploy.serving.promptable import Promptable
from clouds_deploy.serving.server import Server, listen
from tests.deadly import wait_until
from tests.refinement.fakes import ColourSam


class Live:
    """A running server and a client of it."""

    def __init__(self, gate: Gate, model: ServedModel, sam: ColourSam | None) -> None:
        self.gate, self.model, self.sam = gate, model, sam
        self.taken = listen("127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{self.taken.getsockname()[1]}"
        self.server = Server(gate, "127.0.0.1")
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.taken]}, daemon=True)
        self.thread.start()
        self.http = httpx.Client(base_url=self.address, timeout=20)
        wait_until(lambda: gate.open, 20)

    def stop(self) -> None:
        self.server.handle_exit(15, None)
        self.thread.join(20)
        assert not self.thread.is_alive()
        self.taken.close()
        self.http.close()

    def post(self, path: str, image: Any = None, **fields: Any) -> httpx.Response:
        """Send a form; arrays go as PNG files, the rest as text."""
        sent = {"image": image, **fields}
        files = {k: ("x.png", v if isinstance(v, bytes) else png(v)) for k, v in sent.items() if is_file(v)}
        data = {k: v for k, v in sent.items() if isinstance(v, str)}
        return self.http.post(path, files=files or {"nothing": b""}, data=data)


def is_file(value: Any) -> bool:
    return isinstance(value, bytes | np.ndarray)


@contextmanager
def live(
    bundle: Path,
    *,
    backend: str = "onnxruntime",
    limits: Limits | None = None,
    batching: Batching | None = None,
    wrap: Callable[[Callable[[Any], Any]], Callable[[Any], Any]] | None = None,
    sam: bool = True,
    refine: Callable[[Any, Any, Any], Any] | None = None,
    access: Access | None = None,
) -> Iterator[Live]:
    """Serve a bundle; `wrap` goes around the engine's calls. The SAM sees flat colours as things."""
    metrics = Metrics()
    model = ServedModel(bundle, backend, batching=batching, metrics=metrics)
    if wrap:
        model.queue._run = wrap(model.queue._run)
    colours = ColourSam() if sam else None
    filled = refine or (lambda image, labels, _: np.where(labels == 255, 0, labels).astype(np.uint8))
    promptable = Promptable(colours, filled, metrics=metrics) if colours else None
    running = Live(make_app(model, promptable, limits or Limits(), metrics, access), model, colours)
    try:
        yield running
    finally:
        running.stop()


def png(pixels: np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **settings)
    return buffer.getvalue()


def picture_of(response: httpx.Response) -> np.ndarray:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)))


def refused(response: httpx.Response, status: int, word: str) -> None:
    """A reason and a way out, for every refusal."""
    assert response.status_code == status, response.text
    told = response.json()
    assert set(told) == {"error", "hint"}
    assert word in told["error"], told
    assert told["hint"]
    assert told["error"].endswith(told["hint"])  # clients of the protocol show `error` alone
