"""Options of `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from clouds_deploy.config.section import Positive, Section

DEFAULT_SAM = "sam_tiny"


class ServeOptions(Section):
    """How a bundle is served.

    Attributes:
        host: Address to listen on; there is no access control.
        port: Port; 0 takes any free one.
        backend: What runs the bundle.
        device: `auto` (a GPU if the backend can use one, else the CPU), `cpu`, `cuda` or `cuda:N`.
        threads: Threads per call of the backend; None leaves it to the backend.
        name: The model's name in the KServe protocol; None takes the recipe's.
        sam: The SAM that answers clicks and refines labels, a name or a bundle; None serves neither. A name
            needs PyTorch; without it the default is left out.
        sam_weights: The SAM's weight file, or `random`; None takes those that the package has.
        batch: Maximum images per call of the backend.
        delay_ms: Milliseconds that the first image of a call may wait for others.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0)] = 8000
    backend: str = "onnxruntime"
    device: str = "auto"
    threads: Positive | None = None
    name: str | None = None
    sam: str | None = DEFAULT_SAM
    sam_weights: str | Path | None = None
    batch: Positive = 8
    delay_ms: Annotated[float, Field(ge=0)] = 2.0
