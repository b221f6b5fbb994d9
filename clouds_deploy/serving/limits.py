"""Bounds of the server: every resource that a client could exhaust has one; and the error that says no."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from clouds_deploy.errors import CloudsError

DECODABLE = 178_956_970
"""Pixels above which Pillow takes an image for a decompression bomb."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one server.

    Attributes:
        body_bytes: Size of a request's body; a longer one is refused with 413 and never held.
        pixels: Pixels of an image, by its header, before it is decoded; more are refused with 413.
        seconds: Time of a request, first byte to last; then 504, or 408 if its body has not arrived.
        waiting: Requests being served, and images of one request; more are refused with 429 and 413.
        points: Points of one SAM prompt.
        workers: Images decoded and encoded at once.
        prompts: Prompts of one refinement, known before SAM is asked; more are refused with 413.
        answer_bytes: Size of a tensor answer, by the shapes of the outputs that are asked for, before the
            model runs; a longer one is refused with 413.
        header_seconds: From a connection's begin to the last byte of its first request's headers.
        stall_seconds: Longest time without a byte of a request's body; then 408.
        idle_seconds: From an answer to the next request's headers on the same connection.
        connections: Open connections; a new one closes the one that has been without a request for longest.
    """

    body_bytes: int = 16 * 2**20
    pixels: int = 2**25
    seconds: float = 30.0
    waiting: int = 128
    points: int = 64
    workers: int = 2
    prompts: int = 256
    answer_bytes: int = 64 * 2**20
    header_seconds: float = 10.0
    stall_seconds: float = 5.0
    idle_seconds: float = 30.0
    connections: int = 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 < value < math.inf:
                raise CloudsError(
                    f"the limit `{field.name}` is {value}", "it must be a number above 0, and finite"
                )
        if self.pixels > DECODABLE:
            raise CloudsError(
                f"{self.pixels} pixels are more than Pillow decodes", f"the maximum is {DECODABLE}"
            )

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies held at once; a request that does not fit waits before its body is read."""
        return 8 * self.body_bytes

    @property
    def held_pixels(self) -> int:
        """Decoded pixels of small images held at once; one that does not fit waits before it is decoded."""
        return self.pixels

    @property
    def large_pixels(self) -> int:
        """Pixels above which an image is large: few of these are worked on at once, and small ones pass."""
        return max(self.pixels // 16, 2**19)

    @property
    def large_at_once(self) -> int:
        """Requests with large images that are worked on at once."""
        return max(1, self.workers // 2)

    @property
    def prompt_pixels(self) -> int:
        """Prompts times pixels of one refinement: what resizing and merging its masks costs."""
        return 64 * self.pixels

    @property
    def bodies(self) -> int:
        """Bodies being received at once; above that the slowest is refused with 408."""
        return 4 * self.waiting


class Refusal(CloudsError):
    """An error with an HTTP status: a request that is not served.

    Args:
        status: The HTTP status: 4xx where the request has to change, 429 and 503 where it may be repeated as
            it is, 504 where time ran out.
        message: What is wrong.
        hint: What to do about it.
    """

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.status = status

    @property
    def body(self) -> dict[str, str]:
        """The JSON body of the answer."""
        return told(self.message, self.hint)

    @property
    def headers(self) -> dict[str, str]:
        """The answer's headers: when to repeat the request, where that makes sense, or with what."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {"Retry-After": "1"} if self.status in (429, 503) else {}


def mebibytes(size: float, name: str) -> int:
    """A size in MiB as bytes.

    Raises:
        CloudsError: It is no number above 0.
    """
    if not 0 < size < math.inf:
        raise CloudsError(f"{name} is {size}", "give a number of MiB above 0")
    return max(1, round(size * 2**20))


def told(message: str, hint: str) -> dict[str, str]:
    """The JSON body of every refusal.

    Clients of the KServe protocol show `error` alone, so it says what is expected too; `hint` is that part
    by itself.
    """
    error = f"{message}; {hint}" if hint else message
    # half of a surrogate pair is no UTF-8
    return {name: text.encode(errors="replace").decode() for name, text in (("error", error), ("hint", hint))}
