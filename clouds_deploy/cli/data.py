"""`clouds-deploy data check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table

app = typer.Typer(help="Look at datasets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("check")
def check(
    root: Annotated[Path, typer.Argument(help="The dataset's folder, as its download unpacks.")],
    layout: Annotated[
        str | None,
        typer.Option(help="How it is laid out: cityscapes, folder, ...; default: what it looks like."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    as_json: Json = False,
) -> None:
    """Decode every file; count, histogram the labels, and name every bad file."""
    from clouds_deploy.data.check import data_check

    result = data_check(root, layout=layout, split=split)
    deliver(result, as_json, _render)
    if result["bad_files"]:
        raise typer.Exit(1)


def _render(result: dict[str, Any]) -> None:
    splits = ", ".join(f"{name}: {count}" for name, count in result["splits"].items())
    sizes = ", ".join(f"{size} ({count})" for size, count in result["sizes"].items())
    typer.echo(
        f"{result['images']} images, {result['labels']} label maps ({splits}; layout {result['layout']})"
    )
    if result["left_out"]:
        typer.echo(f"{result['left_out']} images left out: their pairs are known to be faulty in the release")
    typer.echo(f"sizes: {sizes}")
    rows = [
        [name, f"{entry['share']:.2%}", str(entry["images"])] for name, entry in result["classes"].items()
    ]
    table("labels", ["class", "pixels", "images"], rows)
    for bad in result["bad_files"]:
        typer.echo(f"BAD {bad['path']}: {bad['fault']}\n    fix: {bad['fix']}")
    typer.echo(f"{len(result['bad_files'])} bad files" if result["bad_files"] else "no bad files")
