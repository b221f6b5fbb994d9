"""Why a request was not served: an error with an HTTP status."""

from __future__ import annotations

from clouds_deploy.errors import CloudsError


class Refusal(CloudsError):
    """A request that is not served, told so that its sender can mend it.

    Args:
        status: The HTTP status: 4xx where the request has to change, 429 and 503 where it may come again as
            it is, 504 where time ran out.
        message: What is wrong.
        hint: What to do about it.
    """

    def __init__(self, status: int, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.status = status

    @property
    def body(self) -> dict[str, str]:
        """What is sent as JSON."""
        return {"error": self.message, "hint": self.hint}

    @property
    def headers(self) -> dict[str, str]:
        """When to come again, where that makes sense."""
        return {"Retry-After": "1"} if self.status in (429, 503) else {}
