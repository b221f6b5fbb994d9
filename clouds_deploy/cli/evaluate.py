"""`clouds-deploy evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, Runner, deliver, table


def evaluate(
    model: Annotated[Path, typer.Argument(help="A finished run, or a bundle.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="The dataset's folder, LAYOUT[@SPLIT]:FOLDER, or shards; none for streets. Repeat it for "
            "the figures of several domains and their average."
        ),
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="The folder's layout; default: the recipe's, or what it looks like.")
    ] = None,
    split: Annotated[str, typer.Option(help="The folder's split.")] = "val",
    domain: Annotated[str | None, typer.Option(help="streets only: game, imagined or photo.")] = None,
    images: Annotated[int | None, typer.Option(help="Evaluate on this many images of each only.")] = None,
    metric: Annotated[
        str | None, typer.Option(help="native (label size) or official (resized labels).")
    ] = None,
    backend: Annotated[str, typer.Option(help="Bundles only: the backend that runs.")] = "onnxruntime",
    out: Annotated[
        str | None,
        typer.Option(help="Folder for records of what is done; a killed evaluation goes on there."),
    ] = None,
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Measure mean intersection over union on labelled images."""
    from clouds_deploy.evaluation.job import evaluate as run

    result = run(
        model,
        data=data,
        layout=layout,
        split=split,
        domain=domain,
        images=images,
        metric=metric,
        backend=backend,
        out=out,
        runner=runner,
    )
    deliver(result, as_json, _render)


_MEANS = {"miou": "mIoU", "miou_16": "16 classes", "miou_13": "13 classes"}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _render(result: dict[str, Any]) -> None:
    if "domains" in result:
        rows = [
            [name, *(_figure(one[key]) for key in _MEANS), str(one["images"])]
            for name, one in (*result["domains"].items(), ("average", result))
        ]
        table(f"mIoU in percent ({result['metric']})", ["domain", *_MEANS.values(), "images"], rows)
        return
    rows = [[name, "not there" if iou is None else f"{iou:.2f}"] for name, iou in result["per_class"].items()]
    table(f"IoU over {result['images']} images ({result['metric']})", ["class", "%"], rows)
    totals = {
        **{label: result[key] for key, label in _MEANS.items()},
        "pixel accuracy": result["pixel_accuracy"],
        "best constant class": result["best_constant_class_miou"],
    }
    typer.echo("   ".join(f"{name} {_figure(value)}" for name, value in totals.items()))
