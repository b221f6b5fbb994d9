"""Admission of requests: how many at once, how long their bodies, how long they may take."""

from __future__ import annotations

import logging
import time
import zlib
from dataclasses import asdict, dataclass

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clouds_deploy.serving.budget import Budget
from clouds_deploy.serving.limits import Limits, Refusal
from clouds_deploy.serving.metrics import Metrics

_LOG = logging.getLogger("uvicorn.error")
_PATIENCE = 2.0
"""Seconds for which a refused body is still read, so that its sender can read the answer."""


_ENCODINGS = ("", "gzip", "x-gzip", "deflate")
"""Values of `Content-Encoding`; the first is a body as it is."""


@dataclass
class Tally:
    """What became of the POST requests.

    Attributes:
        accepted: Requests accepted.
        answered: Of these, answers sent to the last byte, whatever their status.
        refused: Requests refused before they were read.
    """

    accepted: int = 0
    answered: int = 0
    refused: int = 0

    def to_json(self) -> dict[str, int]:
        """The counts."""
        return asdict(self)


class Gate:
    """ASGI middleware around the whole application.

    POST requests are accepted while the server is open and serves fewer than `Limits.waiting`; bodies
    are counted as they arrive, and never held where they are too long; everything ends within
    `Limits.seconds`. Other requests (health, metrics, the page) are always accepted: they must answer when
    nothing else does.

    Args:
        app: The application.
        limits: The bounds.
        metrics: Where answers are counted.

    Attributes:
        open: False accepts no more POST requests; the server sets it when it is told to stop.
        tally: Counts of requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, metrics: Metrics) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.open = False
        self.inside = 0
        self.tally = Tally()
        self._bodies = Budget(limits.held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"  # `/v2/` is `/v2`: not all clients follow redirects
        visit = _Visit(scope, receive, send, self.limits.body_bytes)
        start = time.perf_counter()
        try:
            if scope["method"] != "POST":
                await self.app(scope, receive, visit.answer)
                return
            if refusal := self._refusal(visit):
                self.tally.refused += 1
                await visit.refuse(refusal)
                return
            await self._serve(visit)
        except Exception as error:
            if not visit.complete:
                raise
            # answered already; raised, uvicorn would close the connection on the client's next request
            _LOG.error("%s %s", scope["method"], scope["path"], exc_info=error)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, str(visit.status)).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _refusal(self, visit: _Visit) -> Refusal | None:
        if not self.open:
            return Refusal(503, "the server takes no requests now", "try again, or use another server")
        if self.inside >= self.limits.waiting:
            return Refusal(429, f"{self.inside} requests are being served already", "try again later")
        if visit.length is not None and visit.length > self.limits.body_bytes:
            return _too_long(self.limits.body_bytes)
        if visit.encoding not in _ENCODINGS:
            return Refusal(
                415,
                f"the request's body is encoded as {visit.encoding[:40]}",
                f"send it as it is, or as {' or '.join(filter(None, _ENCODINGS))}",
            )
        return None

    async def _serve(self, visit: _Visit) -> None:
        self.inside += 1
        self.tally.accepted += 1
        self.metrics.in_flight.inc()
        try:
            with anyio.fail_after(self.limits.seconds):
                async with self._bodies.take(
                    self.limits.body_bytes if visit.length is None or visit.encoding else visit.length
                ):
                    await self.app(visit.scope, visit.read, visit.answer)
        except TimeoutError:
            if not visit.status:
                await visit.refuse(self._late(visit))
        finally:
            self.inside -= 1
            self.metrics.in_flight.dec()
            self.tally.answered += visit.complete

    def _late(self, visit: _Visit) -> Refusal:
        seconds = f"{self.limits.seconds:g} s"
        if visit.asked and not visit.whole:
            return Refusal(408, f"the request's body had not arrived after {seconds}", "send it faster")
        return Refusal(
            504, f"no answer within {seconds}", "send a smaller image, or try when the server is less busy"
        )


class _Visit:
    """One request: its received bytes counted, its answer's status recorded."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, largest: int) -> None:
        self.scope, self._receive, self._send, self._largest = scope, receive, send, largest
        length = Headers(scope=scope).get("content-length", "")
        self.length = int(length[:20]) if length.isascii() and length.isdigit() else None
        encoding = ",".join(Headers(scope=scope).getlist("content-encoding")).strip().lower()
        self.encoding = "" if encoding == "identity" else encoding
        self._inflater = _Inflater(largest) if self.encoding in _ENCODINGS and self.encoding else None
        self.status = 0
        self.complete = self.whole = self.asked = False
        self._got = 0

    async def read(self) -> Message:
        """Receives and decompresses, up to the limit."""
        self.asked = True
        message = await self._receive()
        if message["type"] == "http.request":
            self._got += len(message.get("body", b""))
            self.whole = not message.get("more_body", False)
            if self._got > self._largest:
                raise _too_long(self._largest)
            if self._inflater:
                part, whole, inflater = message.get("body", b""), self.whole, self._inflater
                message["body"] = await anyio.to_thread.run_sync(lambda: inflater.feed(part, whole))
        return message

    async def answer(self, message: Message) -> None:
        """Sends; an answer that comes before the whole body first lets the sender finish, for a while.

        A client that still writes when the connection is closed may never read why.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            await self._drain()
        await self._send(message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, refusal: Refusal) -> None:
        """Answers without reading the body."""
        headers = {**refusal.headers, "Connection": "close"}
        response = JSONResponse(refusal.body, refusal.status, headers)
        await response(self.scope, self._receive, self.answer)

    async def _drain(self) -> None:
        """Discards what still arrives of the body."""
        if self.scope["method"] != "POST" or b"expect" in dict(self.scope["headers"]):
            return
        with anyio.move_on_after(_PATIENCE):
            while not self.whole:
                message = await self._receive()
                self.whole = message["type"] != "http.request" or not message.get("more_body", False)


class _Inflater:
    """A compressed body, decompressed as it arrives, up to `largest` bytes; gzip may have several members."""

    def __init__(self, largest: int) -> None:
        self._left = largest
        self._largest = largest
        self._stream: zlib._Decompress | None = None

    def feed(self, data: bytes, last: bool) -> bytes:
        """The next bytes.

        Raises:
            Refusal: 400, they are damaged or end too early; 413, there are too many.
        """
        parts = []
        try:
            while data:
                if self._stream is None:  # gzip, zlib, or deflate without a header, which some clients send
                    headed = data[0] == 0x1F or data[0] & 15 == zlib.DEFLATED
                    self._stream = zlib.decompressobj(zlib.MAX_WBITS + 32 if headed else -zlib.MAX_WBITS)
                parts.append(self._stream.decompress(data, self._left + 1))
                self._left -= len(parts[-1])
                if self._left < 0:
                    raise _too_long(self._largest)
                data = self._stream.unused_data
                if self._stream.eof:
                    self._stream = None
        except zlib.error as error:
            raise Refusal(400, f"the compressed body is damaged: {error}", "send it whole") from error
        if last and self._stream is not None:
            raise Refusal(400, "the compressed body ends too early", "send it whole")
        return b"".join(parts)


def _too_long(largest: int) -> Refusal:
    return Refusal(413, f"the request has more than {largest} bytes", "send a smaller image")
