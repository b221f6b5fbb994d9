"""Bounds of the server: every resource that a client could exhaust has one; and the error that says no."""

from __future__ import annotations

from dataclasses import dataclass

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
        waiting: Requests being served, and images in a queue; more are refused with 429.
        points: Points of one SAM prompt.
        workers: Images decoded and encoded at once.
    """

    body_bytes: int = 16 * 2**20
    pixels: int = 2**25
    seconds: float = 30.0
    waiting: int = 128
    points: int = 64
    workers: int = 2

    def __post_init__(self) -> None:
        for name in ("body_bytes", "pixels", "seconds", "waiting", "points", "workers"):
            if getattr(self, name) <= 0:
                raise CloudsError(f"the limit `{name}` is {getattr(self, name)}", "it must be above 0")
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
        """Decoded pixels held at once; an image that does not fit waits before it is decoded."""
        return 2 * self.pixels


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
        """The answer's headers: when to repeat the request, where that makes sense."""
        return {"Retry-After": "1"} if self.status in (429, 503) else {}


def told(message: str, hint: str) -> dict[str, str]:
    """The JSON body of every refusal.

    Clients of the KServe protocol show `error` alone, so it says what is expected too; `hint` is that part
    by itself.
    """
    error = f"{message}; {hint}" if hint else message
    return {
        "error": error.encode(errors="replace").decode(),
        "hint": hint,
    }  # half of a surrogate pair is no UTF-8
