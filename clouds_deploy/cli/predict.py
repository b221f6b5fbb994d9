"""`clouds-deploy predict`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import free_folder, split_model
from clouds_deploy.cli.options import Backend, Device, Json, Precision, Runner, Shards, VocabularyFile
from clouds_deploy.cli.output import deliver


def predict(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] PATH",
            help="A finished run or a bundle (default: the newest bundle, else the newest run); then "
            "what to label: images, folders, videos, tar shards, s3://... addresses.",
        ),
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder (or s3://...) for label PNGs (train ids) and overlays. An interrupted run resumes.",
            show_default="predictions/NAME",
        ),
    ] = None,
    backend: Backend = None,
    overlays: Annotated[bool, typer.Option(help="Also write overlays with a legend.")] = True,
    confidences: Annotated[
        bool, typer.Option("--confidences", help="Also write the labels' confidences, for `refine`.")
    ] = False,
    smooth: Annotated[
        bool,
        typer.Option(
            "--smooth", help="Steady labels of videos: carry class probabilities along motion (OpenCV)."
        ),
    ] = False,
    shards: Shards = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    vocabulary: VocabularyFile = None,
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Label images, folders and videos with a run or a bundle.

    For example: clouds-deploy predict photo.jpg
    """
    from clouds_deploy.inference.predict import predict as run

    model, paths = split_model(words)
    result = run(
        model,
        paths,
        out=out or str(free_folder("predictions", _name(paths[0]), resume=True)),
        backend=backend,
        vocabulary=vocabulary,
        overlays=overlays,
        confidences=confidences,
        smooth=smooth,
        shards=shards,
        device=device,
        precision=precision,
        runner=runner,
    )
    deliver(result, as_json, _render)
    if result["failed"]:
        raise typer.Exit(1)


def _name(path: str) -> str:
    from pathlib import Path

    return Path(path).stem or Path(path).resolve().name


def _render(result: dict[str, Any]) -> None:
    typer.echo(f"{result['images']} images and {result['frames']} video frames labelled in {result['out']}")
    for entry in result["failed"]:
        typer.echo(f"FAILED {entry['path']}: {entry['fault']}\n       fix: {entry['fix']}")
