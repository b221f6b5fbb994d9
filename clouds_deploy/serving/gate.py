"""Admission of requests: how many at once, how long their bodies, how long they may take."""

from __future__ import annotations

import asyncio
import logging
import time
import zlib
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass

import anyio
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from clouds_deploy.serving.access import Access
from clouds_deploy.serving.intake import Body, Intake
from clouds_deploy.serving.lifetime import KEY, Lifetime, late
from clouds_deploy.serving.limits import Limits, Refusal
from clouds_deploy.serving.metrics import Metrics

_LOG = logging.getLogger("uvicorn.error")
_PATIENCE = 2.0
"""Seconds for which a refused body is still read, so that its sender can read the answer."""


_PART = 2**16
_HEALTH = ("/health", "/ready", "/v2/health/live", "/v2/health/ready")
"""Paths that need no seat."""
_ENCODINGS = ("", "gzip", "x-gzip", "deflate")
"""Values of `Content-Encoding`; the first is a body as it is."""


@dataclass
class Tally:
    """What became of the POST requests.

    Attributes:
        accepted: Requests accepted.
        answered: Of these, answers sent to the last byte, whatever their status.
        refused: Requests refused before they were worked on.
    """

    accepted: int = 0
    answered: int = 0
    refused: int = 0

    def to_json(self) -> dict[str, int]:
        """The counts."""
        return asdict(self)


class Gate:
    """ASGI middleware around the whole application.

    The body of a POST request is received first, by the `Intake`; then the request takes one of
    `Limits.waiting` seats, while the server is open, and its work ends within `Limits.seconds`, or when its
    client is gone. Other requests have as many seats of their own, but for those about health, which need
    none: they must answer when nothing else does.

    Args:
        app: The application.
        limits: The bounds.
        metrics: Where answers are counted.
        access: Who may ask; health is told to all.
        public: Paths for which no token is asked.

    Attributes:
        open: False accepts no more POST requests; the server sets it when it is told to stop.
        inside: POST requests being worked on.
        looking: Other requests being served.
        tally: Counts of requests.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        access: Access | None = None,
        public: Collection[str] = (),
    ) -> None:
        self.app, self.limits, self.metrics = app, limits, metrics
        self.access, self._public = access or Access(), public
        self.open = False
        self.inside = self.looking = 0
        self.tally = Tally()
        self.intake = Intake(limits)
        self._ending: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["path"] = scope["path"].rstrip("/") or "/"  # `/v2/` is `/v2`: not all clients follow redirects
        visit = _Visit(scope, receive, send, self.limits.body_bytes)
        start = time.perf_counter()
        try:
            if scope["path"] in _HEALTH and scope["method"] in ("GET", "HEAD"):
                await self.app(scope, visit.receiver(), visit.answer)
            elif refusal := self.access.refusal(scope, self._public):
                self.tally.refused += scope["method"] == "POST"
                await visit.refuse(refusal)
            elif scope["method"] != "POST":
                await self._look(visit)
            elif refusal := self._refusal(visit):
                self.tally.refused += 1
                await visit.refuse(refusal)
            else:
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

    def stop(self) -> None:
        """Accepts nothing more, and gives up what has not arrived; to be called on the event loop."""
        self.open = False
        self.intake.stop()

    def _refusal(self, visit: _Visit) -> Refusal | None:
        if refusal := self._full():
            return refusal
        if visit.length is not None and visit.length > self.limits.body_bytes:
            return _too_long(self.limits.body_bytes)
        if visit.encoding not in _ENCODINGS:
            return Refusal(
                415,
                f"the request's body is encoded as {visit.encoding[:40]}",
                f"send it as it is, or as {' or '.join(filter(None, _ENCODINGS))}",
            )
        return None

    def _full(self) -> Refusal | None:
        if not self.open:
            return Refusal(503, "the server takes no requests now", "try again, or use another server")
        if self.inside >= self.limits.waiting:
            return Refusal(429, f"{self.inside} requests are being served already", "try again later")
        return None

    async def _look(self, visit: _Visit) -> None:
        """Serves a request that sends nothing."""
        if self.looking >= self.limits.waiting:
            await visit.refuse(Refusal(429, f"{self.looking} others look already", "try again later"))
        else:
            self.looking += 1
            try:
                await self._work(visit, visit.receiver(), Lifetime(self.limits.seconds))
            finally:
                self.looking -= 1

    async def _serve(self, visit: _Visit) -> None:
        body, begun = Body(), time.monotonic()
        try:
            try:
                await self.intake.receive(visit.part, body, self.limits.seconds)
                if visit.cut:
                    return
                if refusal := self._full():
                    raise refusal
            except Refusal as refusal:
                self.tally.refused += 1
                self.intake.release(body)
                await visit.refuse(refusal)
                return
            life = Lifetime(self.limits.seconds, begun)
            data = bytes(body.data)
            body.data.clear()
            self.inside += 1
            self.tally.accepted += 1
            self.metrics.in_flight.inc()
            try:
                await self._work(visit, visit.receiver(data), life)
            finally:
                self.inside -= 1
                self.metrics.in_flight.dec()
                self.tally.answered += visit.complete
        finally:
            self.intake.release(body)

    async def _work(self, visit: _Visit, read: Receive, life: Lifetime) -> None:
        """Has a request answered, unless its time is up or its client is gone before."""
        visit.scope[KEY] = life
        work = asyncio.ensure_future(self.app(visit.scope, read, visit.answer))
        gone = asyncio.ensure_future(visit.gone())
        try:
            await asyncio.wait((work, gone), timeout=life.left, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
                return
            work.cancel()
            await asyncio.wait((work,))
            if not work.cancelled():
                work.result()
            if not visit.status and not gone.done():
                await visit.refuse(late(self.limits.seconds))
        finally:
            for task in (work, gone):
                task.cancel()
            end = asyncio.ensure_future(life.end())
            self._ending.add(end)
            end.add_done_callback(self._ending.discard)


class _Visit:
    """One request: its received bytes counted, its answer's status recorded."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, largest: int) -> None:
        self.scope, self._receive, self._send, self._largest = scope, receive, send, largest
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        self.length = int(length[:20]) if length.isascii() and length.isdigit() else None
        encoding = ",".join(headers.getlist("content-encoding")).strip().lower()
        self.encoding = "" if encoding == "identity" else encoding
        self._inflater = _Inflater(largest) if self.encoding in _ENCODINGS and self.encoding else None
        self._parts: Iterator[bytes] | None = None
        self._left = asyncio.Event()
        self._sends = bool(self.length) or "transfer-encoding" in headers
        self.status = 0
        self.complete = self.whole = self.cut = False
        self._got = 0

    async def part(self) -> tuple[bytes, bool]:
        """Receives and decompresses, up to the limit."""
        if self._parts is not None:
            steps = self._parts
            part = await anyio.to_thread.run_sync(lambda: next(steps, None))
            if part is not None:
                return part, False
            self._parts = None
            if self.whole:
                return b"", True
        message = await self._receive()
        if message["type"] != "http.request":
            self.whole = self.cut = True
            return b"", True
        part = message.get("body", b"")
        self._got += len(part)
        self.whole = not message.get("more_body", False)
        if self._got > self._largest:
            raise _too_long(self._largest)
        if self._inflater:
            self._parts = self._inflater.steps(part, self.whole)
            return b"", False
        return part, self.whole

    def receiver(self, data: bytes = b"") -> Receive:
        """What the application receives: a body, once, and then that the client is gone."""
        parts = [data]

        async def receive() -> Message:
            if parts:
                return {"type": "http.request", "body": parts.pop(), "more_body": False}
            await self._left.wait()
            return {"type": "http.disconnect"}

        return receive

    async def gone(self) -> None:
        """Waits until the client is gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left.set()

    async def answer(self, message: Message) -> None:
        """Sends; an answer that comes before the whole body first lets the sender finish, for a while.

        A client that still writes when the connection is closed may never read why. Long answers are sent in
        parts, so that they wait here, where time is bounded, for a client that reads slowly.
        """
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.scope["method"] == "POST":
                await self._drain()
            elif self._sends:  # what follows is never read
                message = {**message, "headers": [*message.get("headers", []), (b"connection", b"close")]}
        body = message.get("body", b"")
        while len(body) > _PART:
            await self._send({**message, "body": body[:_PART], "more_body": True})
            body = body[_PART:]
        await self._send({**message, "body": body} if "body" in message else message)
        self.complete = message["type"] == "http.response.body" and not message.get("more_body", False)

    async def refuse(self, refusal: Refusal) -> None:
        """Answers without reading the body."""
        headers = {**refusal.headers, "Connection": "close"}
        response = JSONResponse(refusal.body, refusal.status, headers)
        await response(self.scope, self._receive, self.answer)

    async def _drain(self) -> None:
        """Discards what still arrives of the body."""
        if b"expect" in dict(self.scope["headers"]):
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
        """The next bytes; see `steps`."""
        return b"".join(self.steps(data, last))

    def steps(self, data: bytes, last: bool) -> Iterator[bytes]:
        """The next bytes in parts of some tens of kilobytes, for a few can stand for very many.

        Raises:
            Refusal: 400, they are damaged or end too early; 413, there are too many.
        """
        try:
            part = b""
            while data or len(part) == _PART:  # a full part may be followed by more without further bytes
                if self._stream is None:  # gzip, zlib, or deflate without a header, which some clients send
                    headed = data[0] == 0x1F or data[0] & 15 == zlib.DEFLATED
                    self._stream = zlib.decompressobj(zlib.MAX_WBITS + 32 if headed else -zlib.MAX_WBITS)
                part = self._stream.decompress(data, _PART)
                self._left -= len(part)
                if self._left < 0:
                    raise _too_long(self._largest)
                data = self._stream.unconsumed_tail
                if self._stream.eof:
                    data, self._stream = self._stream.unused_data, None
                yield part
                if self._stream is None and not data:
                    break
        except zlib.error as error:
            raise Refusal(400, f"the compressed body is damaged: {error}", "send it whole") from error
        if last and self._stream is not None:
            raise Refusal(400, "the compressed body ends too early", "send it whole")


def _too_long(largest: int) -> Refusal:
    return Refusal(413, f"the request has more than {largest} bytes", "send a smaller image")
