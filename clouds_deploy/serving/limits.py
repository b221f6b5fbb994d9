"""What a server takes on: every resource that a stranger could exhaust has a bound here."""

from __future__ import annotations

from dataclasses import dataclass

from clouds_deploy.errors import CloudsError

DECODABLE = 178_956_970
"""Pixels that Pillow decodes at most before it calls an image a bomb."""


@dataclass(frozen=True)
class Limits:
    """The bounds of one server.

    Attributes:
        body_bytes: A request's body; more is refused with 413 and never held.
        pixels: An image, by its header, before anything is decoded; more is refused with 413.
        seconds: A request, from its first byte to its last; 504 after that, 408 if its body is not even here.
        waiting: Requests in the house, and images before an engine; more are refused with 429.
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
                raise CloudsError(f"the limit `{name}` is {getattr(self, name)}", "give more than zero")
        if self.pixels > DECODABLE:
            raise CloudsError(
                f"{self.pixels} pixels are more than Pillow decodes", f"give at most {DECODABLE}"
            )

    @property
    def held_bytes(self) -> int:
        """Bytes of bodies held at once; whoever does not fit waits before its body is read."""
        return 8 * self.body_bytes

    @property
    def held_pixels(self) -> int:
        """Decoded pixels held at once; whoever does not fit waits before it is decoded."""
        return 2 * self.pixels
