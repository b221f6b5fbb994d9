"""`clouds-deploy refine`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, Runner, Shards, deliver, table


def refine(
    sam: Annotated[
        str,
        typer.Option(
            help="sam_tiny (sam_tiny@384: smaller, quicker), mobile_sam, vit_b, vit_l, vit_h, or a bundle."
        ),
    ],
    images: Annotated[str, typer.Option(help="Folder of images or tar shards, or s3://...")],
    labels: Annotated[str, typer.Option(help="Their label PNGs (train ids), or what `predict` made.")],
    out: Annotated[str, typer.Option(help="Folder to fill; a killed run goes on there.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. robust.points=5 min_area=3000."),
    ] = None,
    weights: Annotated[str | None, typer.Option(help="SAM's weight file, or `random` for a dry run.")] = None,
    mode: Annotated[str, typer.Option(help="robust, or official: the authors' rules.")] = "robust",
    seed: Annotated[int, typer.Option(help="Of the points that `official` draws.")] = 0,
    confidences: Annotated[
        str | None, typer.Option(help="Folder of 8-bit grey PNGs, 255 where the labels are certain.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images that go to SAM together.")] = 8,
    overlays: Annotated[int, typer.Option(min=0, help="Draw so many images before and after.")] = 4,
    backend: Annotated[
        str | None, typer.Option(help="Bundles only: onnxruntime (default) or openvino.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 (openvino).")] = False,
    shards: Shards = None,
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Mend pseudo-labels with SAM.

    For example: clouds-deploy refine --sam sam_tiny --images images --labels predicted --out refined
    """
    from clouds_deploy.refinement.refine import refine as run

    result = run(
        sam,
        images=images,
        labels=labels,
        out=out,
        overrides=tuple(overrides or ()),
        weights=weights,
        mode=mode,
        seed=seed,
        confidences=confidences,
        batch=batch,
        overlays=overlays,
        backend=backend,
        precision="bf16" if bf16 else "f32",
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
    table("Before and after: share of all pixels, and what became of the labels", columns, rows)
    if "units_done" in result:
        pace = f"{result['units_done']} units now"
    else:
        speed = result["images_per_second"]
        pace = "nothing was left to do" if speed is None else f"{result['refined']} now, {speed:.1f} images/s"
    typer.echo(f"{result['images']} images refined in {result['out']} ({pace})")
    typer.echo(f"{result['masks_taken']} of {result['prompts']} masks were taken")
    for entry in result["failed"]:
        typer.echo(f"FAILED {entry['path']}: {entry['fault']}\n       fix: {entry['fix']}")
