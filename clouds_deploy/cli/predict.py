"""`clouds-deploy predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, Runner, Shards, deliver


def predict(
    model: Annotated[Path, typer.Argument(help="A finished run, or a bundle.")],
    paths: Annotated[
        list[str], typer.Argument(help="Images, folders, videos; tar shards; s3://... and the like.")
    ],
    out: Annotated[str, typer.Option(help="Folder for label PNGs (train ids) and overlays, or s3://...")],
    backend: Annotated[str, typer.Option(help="Bundles only: the backend that runs.")] = "onnxruntime",
    overlays: Annotated[bool, typer.Option(help="Draw overlays with a legend too.")] = True,
    confidences: Annotated[
        bool, typer.Option("--confidences", help="Write how sure the labels are, too, for `refine`.")
    ] = False,
    shards: Shards = None,
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Label images, folders and video."""
    from clouds_deploy.inference.predict import predict as run

    result = run(
        model, paths, out=out, backend=backend, overlays=overlays, confidences=confidences, shards=shards,
        runner=runner,
    )  # fmt: skip
    deliver(result, as_json, _render)
    if result["failed"]:
        raise typer.Exit(1)


def _render(result: dict[str, Any]) -> None:
    typer.echo(f"{result['images']} images and {result['frames']} video frames labelled in {result['out']}")
    for entry in result["failed"]:
        typer.echo(f"FAILED {entry['path']}: {entry['fault']}\n       fix: {entry['fix']}")
