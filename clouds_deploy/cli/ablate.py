"""`clouds-deploy ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def ablate(
    out: Annotated[Path, typer.Option(help="Folder for runs and report; a killed call goes on there.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides of both recipes.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="The warm-up's recipe.")] = "tiny",
    joint: Annotated[str, typer.Option(help="The joint stage's recipe.")] = "tiny_joint",
    backbone: Annotated[list[str] | None, typer.Option(help="frozen, trainable, lora; repeat it.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    generated: Annotated[
        list[int] | None, typer.Option(help="A number of generated images to try, too; repeat it.")
    ] = None,
    data: Annotated[
        list[str] | None, typer.Option(help="Evaluate on this, as `evaluate --data`; default: streets.")
    ] = None,
    domain: Annotated[str, typer.Option(help="Which streets to evaluate on.")] = "photo",
    images: Annotated[int, typer.Option(min=1, help="Evaluate on this many images of each.")] = 200,
    joint_set: Annotated[
        list[str] | None, typer.Option("--joint-set", help="KEY=VALUE of the joint recipe alone; repeat it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure what generated images and refined labels bring, as the paper's ablation does."""
    from clouds_deploy.studies.ablation import ablate as run

    result = run(
        out=out,
        recipe=recipe,
        joint=joint,
        backbones=tuple(backbone or ("frozen",)),
        seeds=seeds,
        generated=tuple(generated or ()),
        data=tuple(data or ()),
        domain=domain,
        images=images,
        overrides=tuple(overrides or ()),
        joint_overrides=tuple(joint_set or ()),
    )
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    rows = [
        [
            row["backbone"],
            row["row"],
            "" if row["generated"] is None else str(row["generated"]),
            f"{row['mean']:.2f}",
            f"{row['spread']:.2f}",
        ]
        for row in result["rows"]
    ]
    table("mIoU on the target, percent", ["backbone", "row", "images", "mean", "spread"], rows)
    for name, gain in result["gains"].items():
        typer.echo(f"{name}: {gain['mean']:+.2f} points by refined labels, {gain['least']:+.2f} at least")
    typer.echo(f"report: {result['report']}")
