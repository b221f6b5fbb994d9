"""`clouds-deploy evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def evaluate(
    model: Annotated[Path, typer.Argument(help="A finished run, or a bundle.")],
    data: Annotated[Path | None, typer.Option(help="The dataset's folder; none for streets.")] = None,
    layout: Annotated[str | None, typer.Option(help="Its layout; default: what the run trained on.")] = None,
    split: Annotated[str, typer.Option(help="Its split.")] = "val",
    domain: Annotated[str | None, typer.Option(help="streets only: game, imagined or photo.")] = None,
    images: Annotated[int | None, typer.Option(help="Evaluate on this many images only.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="native (label size) or official (resized labels).")
    ] = None,
    backend: Annotated[str, typer.Option(help="Bundles only: the backend that runs.")] = "onnxruntime",
    as_json: Json = False,
) -> None:
    """Measure mean intersection over union on labelled images."""
    from clouds_deploy.api import evaluate as run

    result = run(
        model,
        data=data,
        layout=layout,
        split=split,
        domain=domain,
        images=images,
        metric=metric,
        backend=backend,
    )
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    rows = [[name, "not there" if iou is None else f"{iou:.2f}"] for name, iou in result["per_class"].items()]
    table(f"IoU over {result['images']} images ({result['metric']})", ["class", "%"], rows)
    totals = {
        "mIoU": result["miou"],
        "pixel accuracy": result["pixel_accuracy"],
        "best constant class": result["best_constant_class_miou"],
    }
    typer.echo("   ".join(f"{name} {'-' if v is None else f'{v:.2f}'}" for name, v in totals.items()))
