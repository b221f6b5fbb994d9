"""`clouds-deploy refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import free_folder
from clouds_deploy.cli.options import Bf16, Device, Json, Precision, Runner, Shards, chosen_precision
from clouds_deploy.cli.output import deliver, table

_METHOD, _MODEL = "Method", "Model"


def refine(
    images: Annotated[str, typer.Option(help="Folder of images or of tar shards, or s3://...")],
    labels: Annotated[
        str, typer.Option(help="Folder of their label PNGs (train ids), or the output of `predict`.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings to change, such as robust.points=5 min_area=3000."
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder for the refined labels. An interrupted run resumes.", show_default="refined/IMAGES"
        ),
    ] = None,
    sam: Annotated[
        str,
        typer.Option(
            help="sam_tiny, sam_tiny@384 (smaller images, faster), mobile_sam, vit_b, vit_l, vit_h, or a "
            "bundle.",
            rich_help_panel=_MODEL,
        ),
    ] = "sam_tiny",
    weights: Annotated[
        str | None,
        typer.Option(help="SAM's weight file, or `random` for a dry run.", rich_help_panel=_MODEL),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            help="Bundles only: onnxruntime or openvino.", show_default="onnxruntime", rich_help_panel=_MODEL
        ),
    ] = None,
    precision: Precision = "fp32",
    bf16: Bf16 = False,
    batch: Annotated[int, typer.Option(min=1, help="Images per call of SAM.", rich_help_panel=_MODEL)] = 8,
    mode: Annotated[
        str, typer.Option(help="robust, or official: the authors' rules.", rich_help_panel=_METHOD)
    ] = "robust",
    seed: Annotated[
        int, typer.Option(help="Seed of the random points of `official`.", rich_help_panel=_METHOD)
    ] = 0,
    confidences: Annotated[
        str | None,
        typer.Option(
            help="Folder of 8-bit grey PNGs with the labels' confidences (255: certain).",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Label set of the labels: a name or a YAML or JSON file.",
            show_default="what `predict` wrote beside them, else cityscapes19",
            rich_help_panel=_METHOD,
        ),
    ] = None,
    overlays: Annotated[int, typer.Option(min=0, help="Write this many before-and-after images.")] = 4,
    device: Device = "auto",
    shards: Shards = None,
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Refine pseudo-labels with SAM.

    For example: clouds-deploy refine --images images --labels predictions/images
    """
    from clouds_deploy.refinement.refine import refine as run

    result = run(
        sam,
        images=images,
        labels=labels,
        out=out or str(free_folder("refined", Path(images).name, resume=True)),
        overrides=tuple(overrides or ()),
        weights=weights,
        mode=mode,
        seed=seed,
        confidences=confidences,
        batch=batch,
        classes=classes,
        overlays=overlays,
        backend=backend,
        precision=chosen_precision(precision, bf16),
        device=device,
        shards=shards,
        runner=runner,
    )
    deliver(result, as_json, _render)
    if result["failed"]:
        raise typer.Exit(1)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _render(result: dict[str, Any]) -> None:
    three = ("agreement", "changed", "unlabelled")
    rows = [
        [name, *(_percent(one[key]) for key in ("before", "after", *three))]
        for name, one in result["per_class"].items()
        if one["before"] or one["after"]
    ]
    rows.append(["all", "", "", *(_percent(result[key]) for key in three)])
    columns = ["class", "before %", "after %", "kept %", "changed %", f"{result['unlabelled_means']} %"]
    table("Labels before and after refinement, as shares of all pixels", columns, rows)
    if "units_done" in result:
        pace = f"{result['units_done']} units in this run"
    else:
        speed = result["images_per_second"]
        pace = "nothing was left to do"
        if speed is not None:
            pace = f"{result['refined']} in this run, {speed:.1f} images/s"
    typer.echo(f"{result['images']} images refined in {result['out']} ({pace})")
    typer.echo(f"{result['masks_taken']} of {result['prompts']} masks were used")
    for entry in result["failed"]:
        typer.echo(f"FAILED {entry['path']}: {entry['fault']}\n       fix: {entry['fix']}")
