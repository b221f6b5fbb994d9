"""`clouds-deploy ablate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver, table

_EVALUATION = "Evaluation"


def ablate(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys of both recipes to change.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the runs and the report. An interrupted ablation resumes.")
    ] = Path("ablation"),
    recipe: Annotated[str, typer.Option(help="Recipe of the warm-up.")] = "tiny",
    joint: Annotated[str, typer.Option(help="Recipe of the joint stage (self-training).")] = "tiny_joint",
    joint_set: Annotated[
        list[str] | None,
        typer.Option("--joint-set", help="KEY=VALUE to change in the joint recipe only. Repeatable."),
    ] = None,
    backbone: Annotated[
        list[str] | None,
        typer.Option(help="frozen, trainable or lora. Repeatable.", show_default="frozen"),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Number of seeds.")] = 3,
    generated: Annotated[
        list[int] | None,
        typer.Option(help="Another number of generated images to try. Repeatable."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Dataset to evaluate on, as in `evaluate --data`. Repeatable.",
            show_default="synthetic streets",
            rich_help_panel=_EVALUATION,
        ),
    ] = None,
    domain: Annotated[
        str, typer.Option(help="Synthetic streets only: their domain.", rich_help_panel=_EVALUATION)
    ] = "photo",
    images: Annotated[
        int, typer.Option(min=1, help="Images of each dataset.", rich_help_panel=_EVALUATION)
    ] = 200,
    as_json: Json = False,
) -> None:
    """Measure what generated images and refined labels contribute, as in the paper's ablation.

    For example: clouds-deploy ablate --seeds 3 --out ablation
    """
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
    table("mIoU on the target domain, percent", ["backbone", "row", "images", "mean", "spread"], rows)
    for name, gain in result["gains"].items():
        typer.echo(
            f"{name}: refined labels add {gain['mean']:+.2f} points of mIoU, {gain['least']:+.2f} at worst"
        )
    typer.echo(f"report: {result['report']}")
