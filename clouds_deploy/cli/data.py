"""`clouds-deploy data check`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver, table

_SHOWN = 10
"""Bad files that are printed of each kind of fault."""

app = typer.Typer(help="Check datasets.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("check")
def check(
    root: Annotated[Path, typer.Argument(help="The dataset's folder, as unpacked from its download.")],
    layout: Annotated[
        str | None,
        typer.Option(help="Its layout: cityscapes, folder, ...", show_default="found out"),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Check only this split.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Label set to read labels in: cityscapes34, ade150, ..., or a YAML or JSON file.",
            show_default="cityscapes19",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Decode every file of a dataset; print counts, a label histogram and every bad file.

    For example: clouds-deploy data check /data/cityscapes
    """
    from clouds_deploy.data.check import data_check

    result = data_check(root, layout=layout, split=split, classes=classes)
    deliver(result, as_json, _render)
    if result["bad_files"]:
        raise typer.Exit(1)


def _render(result: dict[str, Any]) -> None:
    splits = ", ".join(f"{name}: {count}" for name, count in result["splits"].items())
    sizes = ", ".join(f"{size} ({count})" for size, count in result["sizes"].items())
    typer.echo(
        f"{result['images']} images, {result['labels']} label maps ({splits}; layout {result['layout']})"
    )
    for name, encoding in result["labels_read_as"].items():
        typer.echo(f"{name}: labels read as {encoding}")
    if result["label_set"] == "cityscapes19" and result["layout"] == "folder":
        typer.echo(
            "labels are taken for Cityscapes' 19 classes; name classes of your own with --classes FILE"
        )
    if result["left_out"]:
        typer.echo(f"{result['left_out']} images left out: known to be faulty in this release")
    typer.echo(f"sizes: {sizes}")
    rows = [
        [name, f"{entry['share']:.2%}", str(entry["images"])] for name, entry in result["classes"].items()
    ]
    table(f"labels ({result['label_set']})", ["class", "pixels", "images"], rows)
    kinds: dict[str, list[dict[str, str]]] = {}
    for bad in result["bad_files"]:
        kinds.setdefault(re.sub(r"\S*/\S*", "", bad["fix"]), []).append(bad)
    for files in kinds.values():
        for bad in files[:_SHOWN]:
            typer.echo(f"BAD {bad['path']}: {bad['fault']}")
        if len(files) > _SHOWN:
            typer.echo(f"... and {len(files) - _SHOWN} more of this kind; --json lists all")
        typer.echo(f"    fix: {files[0]['fix']}")
    for warning in result["warnings"]:
        typer.echo(f"WARNING {warning}")
    typer.echo(f"{len(result['bad_files'])} bad files" if result["bad_files"] else "no bad files")
