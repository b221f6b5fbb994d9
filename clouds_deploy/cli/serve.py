"""`clouds-deploy serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import newest_bundle
from clouds_deploy.cli.options import Device, Json, VocabularyFile
from clouds_deploy.cli.output import deliver

_NETWORK, _SAM, _BATCHING, _LIMITS = "Network", "SAM", "Batching", "Limits"


def serve(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle of a segmenter.", show_default="the newest bundle"),
    ] = None,
    backend: Annotated[
        str, typer.Option(help="What runs the bundle: onnxruntime, openvino, tensorrt, ...")
    ] = "onnxruntime",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads per call of the backend.")] = None,
    device: Device = "auto",
    vocabulary: VocabularyFile = None,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name in the KServe protocol.", show_default="the recipe's"),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on; 0.0.0.0 is open to the network: see --token-file.",
            rich_help_panel=_NETWORK,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes any free port.", rich_help_panel=_NETWORK)
    ] = 8000,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="File with a token that requests must carry.",
            show_default="$CLOUDS_DEPLOY_TOKEN, or none",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="Name by which the server is called, or whose pages may call it; repeatable, * for all.",
            show_default="addresses, localhost, the machine's name",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="Certificate (PEM), for HTTPS.", rich_help_panel=_NETWORK)
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key (PEM).", rich_help_panel=_NETWORK)] = None,
    sam: Annotated[
        str,
        typer.Option(
            help="SAM for clicks and refined labels: sam_tiny, vit_b, ..., a bundle, or none.",
            rich_help_panel=_SAM,
        ),
    ] = "sam_tiny",
    sam_weights: Annotated[
        str | None, typer.Option(help="SAM's weight file, or `random`.", rich_help_panel=_SAM)
    ] = None,
    batch: Annotated[
        int, typer.Option(min=1, help="Maximum images per call.", rich_help_panel=_BATCHING)
    ] = 8,
    delay_ms: Annotated[
        float,
        typer.Option(
            min=0, help="Milliseconds an image waits for others to share its call.", rich_help_panel=_BATCHING
        ),
    ] = 2.0,
    max_mib: Annotated[
        float, typer.Option(help="Maximum size of a request in MiB.", rich_help_panel=_LIMITS)
    ] = 16.0,
    max_pixels: Annotated[int, typer.Option(help="Maximum pixels of an image.", rich_help_panel=_LIMITS)] = 2
    ** 25,
    max_seconds: Annotated[
        float, typer.Option(help="Maximum time of a request.", rich_help_panel=_LIMITS)
    ] = 30.0,
    max_waiting: Annotated[
        int, typer.Option(help="Maximum number of requests at once.", rich_help_panel=_LIMITS)
    ] = 128,
    max_prompts: Annotated[
        int, typer.Option(help="Maximum components of a label map to refine.", rich_help_panel=_LIMITS)
    ] = 256,
    max_answer_mib: Annotated[
        float, typer.Option(help="Maximum size of a tensor answer in MiB.", rich_help_panel=_LIMITS)
    ] = 64.0,
    max_connections: Annotated[
        int, typer.Option(help="Maximum open connections; the idlest is closed.", rich_help_panel=_LIMITS)
    ] = 1024,
    as_json: Json = False,
) -> None:
    """Serve a bundle over HTTP: a web page, image and label endpoints, KServe v2, metrics.

    Runs until SIGTERM or Ctrl-C, answers the requests it has accepted, and exits with 0.
    For example: clouds-deploy serve bundles/tiny --port 8000
    """
    from clouds_deploy.serving.limits import Limits, mebibytes
    from clouds_deploy.serving.serve import serve as run

    limits = Limits(
        mebibytes(max_mib, "--max-mib"),
        max_pixels,
        max_seconds,
        max_waiting,
        prompts=max_prompts,
        answer_bytes=mebibytes(max_answer_mib, "--max-answer-mib"),
        connections=max_connections,
    )
    result = run(
        bundle or newest_bundle(),
        host=host,
        port=port,
        backend=backend,
        device=device,
        name=name,
        sam=None if sam == "none" else sam,
        sam_weights=sam_weights,
        batch=batch,
        delay_ms=delay_ms,
        threads=threads,
        vocabulary=vocabulary,
        token_file=token_file,
        allow_hosts=tuple(allow_host or ()),
        tls_cert=tls_cert,
        tls_key=tls_key,
        limits=limits,
        started=_started,
    )
    deliver(result, as_json, _render)


def _started(address: str) -> None:
    from clouds_deploy.console import say

    say(f"serving on {address}  (Ctrl-C stops)")


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"stopped: {result['accepted']} requests accepted, {result['answered']} answered, "
        f"{result['refused']} refused"
    )
