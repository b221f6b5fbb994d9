"""`clouds-deploy import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import RUNS, free_folder
from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="Weights of CLOUDS, FC-CLIP or Mask2Former: .pth, .pkl or .safetensors.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The run's folder.", show_default="runs/CHECKPOINT, runs/CHECKPOINT-2, ..."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="The model's recipe (name or .yaml file), if it is not a published model."),
    ] = None,
    skip_backbone: Annotated[
        bool, typer.Option("--skip-backbone", help="Import only the head; --recipe names the backbone.")
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Label set that it was trained on: a name or a YAML or JSON file.",
            show_default="the recipe's, else cityscapes19",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a published checkpoint into a run; lists every tensor that was not used.

    For example: clouds-deploy import clouds_gta.pth --out runs/official
    """
    from clouds_deploy.models.importing.checkpoint import import_checkpoint as run

    place = out or free_folder(RUNS, checkpoint.stem)
    result = run(checkpoint, out=place, recipe=recipe, skip_backbone=skip_backbone, classes=classes)
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"{result['run']}: {result['head']} head on {result['backbone']}, "
        f"classes of {result['label_set']}, "
        f"{result['used']} tensors used, {result['kept_aside']} kept but not used by this model"
    )
    for theirs, name in result["renamed"].items():
        typer.echo(f"  {name} is read as {theirs}")
    for what in ("dropped", "skipped"):
        if result[what]:
            typer.echo(f"  {len(result[what])} {what}:")
            for name in result[what]:
                typer.echo(f"    {name}")
