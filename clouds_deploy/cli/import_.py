"""`clouds-deploy import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(help="Weights of CLOUDS, FC-CLIP or Mask2Former: .pth, .pkl or .safetensors.")
    ],
    out: Annotated[Path, typer.Option(help="The run's folder to make.")],
    recipe: Annotated[
        str | None, typer.Option(help="What it is a model of, if no published one: a recipe or .yaml file.")
    ] = None,
    skip_backbone: Annotated[
        bool, typer.Option("--skip-backbone", help="Import the head alone; --recipe names the backbone.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Turn a published checkpoint into a run; every tensor is accounted for by name."""
    from clouds_deploy.models.importing.checkpoint import import_checkpoint as run

    deliver(run(checkpoint, out=out, recipe=recipe, skip_backbone=skip_backbone), as_json, _render)


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"{result['run']}: {result['head']} head on {result['backbone']}, "
        f"{result['used']} tensors used, {result['kept_aside']} kept aside"
    )
    for theirs, name in result["renamed"].items():
        typer.echo(f"  {name} is read as {theirs}")
    for what in ("dropped", "skipped"):
        if result[what]:
            typer.echo(f"  {len(result[what])} {what}:")
            for name in result[what]:
                typer.echo(f"    {name}")
