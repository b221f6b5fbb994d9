"""`clouds-deploy train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe's name (`recipes ls`), or a .yaml file.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, e.g. train.lr=2e-4 data.root=/data."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/a"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    init: Annotated[Path | None, typer.Option(help="Start a new run from this run's weights.")] = None,
    as_json: Json = False,
) -> None:
    """Train a segmenter on labelled images.

    For example: clouds-deploy train tiny --out runs/tiny
    """
    from clouds_deploy.training.train import train as run

    deliver(
        run(recipe, overrides=tuple(overrides or ()), out=out, resume=resume, init=init), as_json, _render
    )


def _render(result: dict[str, Any]) -> None:
    speed = result["images_per_second"]
    if "iou_1" in result:
        score = f"mean IoU {result['iou_1']:.1f} from one point, {result['iou_5']:.1f} from five"
        score += f", {result['clicks_5']:.1f} from five clicks" if "clicks_5" in result else ""
        typer.echo(f"{result['run']}: {result['steps']} steps, {score}")
        return
    miou = "without labels to compare with" if result["miou"] is None else f"mIoU {result['miou']:.2f}"
    pace = "" if speed is None else f", {speed:.1f} images/s"
    typer.echo(f"{result['run']}: {result['steps']} steps{pace}, {miou}")
