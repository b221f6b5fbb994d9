"""`clouds-deploy quickstart`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver


def quickstart(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Keys of `tiny` and `tiny_joint` to change."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for all results. An interrupted quickstart resumes.")
    ] = Path("quickstart"),
    as_json: Json = False,
) -> None:
    """Run the whole loop on synthetic streets, from training to a benchmark, and write report.html.

    For example: clouds-deploy quickstart --out quickstart
    """
    from clouds_deploy.studies.quickstart import quickstart as run

    deliver(run(out=out, overrides=tuple(overrides or ())), as_json, _render)


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"game {result['game_miou']:.1f} mIoU, photo {result['photo_miou']:.1f} mIoU "
        f"({result['photo_miou_before']:.1f} before self-training)"
    )
    typer.echo(f"report: {result['report']}")
