"""Options of `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from clouds_deploy.config.section import Positive, Section

DEFAULT_SAM = "sam_tiny"
TOKEN = "CLOUDS_DEPLOY_TOKEN"
"""Environment variable that holds a server's token, where no file is named."""


class ServeOptions(Section):
    """How a bundle is served.

    Attributes:
        host: Address to listen on.
        port: Port; 0 takes any free one.
        backend: What runs the bundle.
        device: `auto` (a GPU if the backend can use one, else the CPU), `cpu`, `cuda` or `cuda:N`.
        threads: Threads per call of the backend; None leaves it to the backend.
        vocabulary: A bundle with a text head only: a file of other classes, made by `embed_classes`.
        name: The model's name in the KServe protocol; None takes the recipe's.
        sam: The SAM that answers clicks and refines labels, a name or a bundle; None serves neither. A name
            needs PyTorch; without it the default is left out.
        sam_weights: The SAM's weight file, or `random`; None takes those that the package has.
        batch: Maximum images per call of the backend.
        delay_ms: Milliseconds that the first image of a call may wait for others.
        token_file: File with the token that requests must carry; None takes that of the environment variable
            `CLOUDS_DEPLOY_TOKEN`, and without it none is asked for.
        allow_hosts: Names, beside addresses, `localhost` and the machine's own, under which the server is
            called, or whose pages may call it; `*` allows all.
        tls_cert: Certificate, a PEM file, with those between it and its root; with `tls_key` HTTPS is served.
        tls_key: Its key, a PEM file without a password.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0)] = 8000
    backend: str = "onnxruntime"
    device: str = "auto"
    threads: Positive | None = None
    vocabulary: Path | None = None
    name: str | None = None
    sam: str | None = DEFAULT_SAM
    sam_weights: str | Path | None = None
    batch: Positive = 8
    delay_ms: Annotated[float, Field(ge=0)] = 2.0
    token_file: str | Path | None = None
    allow_hosts: tuple[str, ...] = ()
    tls_cert: str | Path | None = None
    tls_key: str | Path | None = None
