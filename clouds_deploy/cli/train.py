"""`clouds-deploy train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import RUNS, free_folder, last_folder
from clouds_deploy.cli.options import Device, Json
from clouds_deploy.cli.output import deliver
from clouds_deploy.console import say

DEFAULT = "tiny"


def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe's name (see `recipes ls`), or a .yaml file.",
            show_default=DEFAULT,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Recipe keys to change, such as train.lr=2e-4."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder.", show_default="runs/RECIPE, runs/RECIPE-2, ...")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out, or with the recipe's latest run.")
    ] = False,
    init: Annotated[
        Path | None, typer.Option(help="Start a new run from the weights of this finished run.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train a model from a recipe: a segmenter, or the promptable model `sam_tiny`.

    For example: clouds-deploy train tiny train.steps=500
    """
    from clouds_deploy.training.train import train as run

    changes = list(overrides or ())
    if recipe and "=" in recipe:  # only changes were named
        changes, recipe = [recipe, *changes], None
    if recipe is None:
        recipe = DEFAULT
        say(f"  taking the recipe {recipe}")
    name = Path(recipe).stem
    if out is None:
        out = last_folder(RUNS, name) if resume else free_folder(RUNS, name)
    result = run(recipe, out=out, overrides=changes, resume=resume, init=init, device=device)
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    speed = result["images_per_second"]
    if "iou_1" in result:
        score = f"mean IoU {result['iou_1']:.1f} from one point, {result['iou_5']:.1f} from five"
        score += f", {result['clicks_5']:.1f} from five clicks" if "clicks_5" in result else ""
        typer.echo(f"{result['run']}: {result['steps']} steps, {score}")
        return
    miou = "not evaluated, no labels" if result["miou"] is None else f"mIoU {result['miou']:.2f}"
    pace = "" if speed is None else f", {speed:.1f} images/s"
    typer.echo(f"{result['run']}: {result['steps']} steps{pace}, {miou}")
