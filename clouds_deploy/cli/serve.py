"""`clouds-deploy serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver


def serve(
    bundle: Annotated[Path, typer.Argument(help="What `export` made.")],
    host: Annotated[str, typer.Option(help="Where to listen; there is no access control.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any that is free.")] = 8000,
    backend: Annotated[str, typer.Option(help="The backend that runs.")] = "onnxruntime",
    name: Annotated[str | None, typer.Option(help="The model's name; default: the recipe's.")] = None,
    sam: Annotated[
        str, typer.Option(help="Answers clicks and mends labels: sam_tiny, vit_b, ... or none.")
    ] = "sam_tiny",
    sam_weights: Annotated[str | None, typer.Option(help="SAM's weight file, or `random`.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per engine call at most.")] = 8,
    delay_ms: Annotated[
        float, typer.Option(min=0, help="How long the first image of a call waits for others.")
    ] = 2.0,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per engine call.")] = None,
    max_mib: Annotated[float, typer.Option(help="Size of a request at most.")] = 16.0,
    max_pixels: Annotated[int, typer.Option(help="Pixels of an image at most.")] = 2**25,
    max_seconds: Annotated[float, typer.Option(help="Time for a request at most.")] = 30.0,
    max_waiting: Annotated[int, typer.Option(help="Requests served at once at most.")] = 128,
    as_json: Json = False,
) -> None:
    """Serve a bundle over HTTP: a page, pictures, KServe v2 tensors, metrics.

    It runs until SIGTERM or Ctrl-C, finishes what it let in, and exits 0. For example:
    clouds-deploy serve bundles/a --port 8000
    """
    from clouds_deploy.serving.limits import Limits
    from clouds_deploy.serving.serve import serve as run

    limits = Limits(round(max_mib * 2**20), max_pixels, max_seconds, max_waiting)
    result = run(
        bundle,
        host=host,
        port=port,
        backend=backend,
        name=name,
        sam=None if sam == "none" else sam,
        sam_weights=sam_weights,
        batch=batch,
        delay_ms=delay_ms,
        threads=threads,
        limits=limits,
        started=_started,
    )
    deliver(result, as_json, _render)


def _started(address: str) -> None:
    from clouds_deploy.console import say

    say(f"serving on {address}  (Ctrl-C stops)")


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"stopped: {result['accepted']} requests let in, {result['answered']} answered, "
        f"{result['refused']} turned away"
    )
