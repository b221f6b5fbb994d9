"""`clouds-deploy evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import newest_model
from clouds_deploy.cli.options import Backend, Device, Json, Precision, Runner
from clouds_deploy.cli.output import deliver, table
from clouds_deploy.errors import CloudsError

_DATA, _CLIPS, _CLASSES = "Data", "Clips", "Classes"


def evaluate(
    model: Annotated[
        Path | None,
        typer.Argument(help="A finished run, or a bundle.", show_default="the newest bundle, else run"),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder of a dataset, LAYOUT[@SPLIT]:FOLDER, or shards. Repeat it to evaluate several "
            "domains and their average.",
            show_default="synthetic streets, or what the run's recipe names",
            rich_help_panel=_DATA,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="The folder's layout: cityscapes, folder, ...",
            show_default="the recipe's, or found out",
            rich_help_panel=_DATA,
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="The folder's split.", rich_help_panel=_DATA)] = "val",
    domain: Annotated[
        str | None,
        typer.Option(help="Synthetic streets only: game, imagined or photo.", rich_help_panel=_DATA),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Use only this many images of each dataset.", rich_help_panel=_DATA)
    ] = None,
    clips: Annotated[
        bool,
        typer.Option(
            "--clips",
            help="Evaluate on clips: also mVC8, mVC16 and consistency. --data LAYOUT[@SPLIT]:FOLDER "
            "(cityscapes, vspw, viper, kitti, folder, video), else synthetic ones.",
            rich_help_panel=_CLIPS,
        ),
    ] = False,
    frames: Annotated[
        int, typer.Option(help="Use only the first frames of each clip.", rich_help_panel=_CLIPS)
    ] = 24,
    smooth: Annotated[
        bool,
        typer.Option("--smooth", help="Label clips as `predict --smooth` does.", rich_help_panel=_CLIPS),
    ] = False,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Label set to compare in: a name or a YAML or JSON file.",
            show_default="the model's",
            rich_help_panel=_CLASSES,
        ),
    ] = None,
    read_as: Annotated[
        str | None,
        typer.Option(
            help="Label set that the label files are written in.",
            show_default="the one to compare in, or what the layout says",
            rich_help_panel=_CLASSES,
        ),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            metavar="A=B",
            help="Count class A, of the model or the data, as B; A= ignores it. Repeatable.",
            rich_help_panel=_CLASSES,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="native (at the labels' size) or official (labels resized, as the authors do).",
            show_default="the recipe's",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="Of a run, also an unfinished one: best, last or a number of steps.",
            show_default="what the run ended with",
        ),
    ] = None,
    backend: Backend = None,
    out: Annotated[
        str | None,
        typer.Option(help="Folder for intermediate results; an interrupted evaluation resumes there."),
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Measure the mean intersection over union (mIoU) of a model on labelled images.

    For example: clouds-deploy evaluate runs/tiny --data cityscapes:/data/cityscapes
    """
    from clouds_deploy.evaluation.job import evaluate as run

    result = run(
        model or newest_model(),
        data=data,
        layout=layout,
        split=split,
        domain=domain,
        images=images,
        clips=clips,
        frames=frames,
        smooth=smooth,
        classes=classes,
        read_as=read_as,
        map=_map(mapping or ()),
        metric=metric,
        checkpoint=checkpoint,
        backend=backend,
        out=out,
        device=device,
        precision=precision,
        runner=runner,
    )
    deliver(result, as_json, _render)


def _map(pairs: Sequence[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for pair in pairs:
        name, separator, target = pair.partition("=")
        if not separator or not name:
            raise CloudsError(f"--map {pair} is not `A=B`", "for example --map car=vehicle")
        found[name.strip()] = target.strip() or None
    return found


_MEANS = {"miou": "mIoU", "miou_16": "16 classes", "miou_13": "13 classes"}


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _render(result: dict[str, Any]) -> None:
    from clouds_deploy.data.labelled import told

    _render_scores(result)
    for facts in result["read"]:
        typer.echo(told(facts))


def _render_scores(result: dict[str, Any]) -> None:
    means = {key: label for key, label in _MEANS.items() if key in result}
    if "domains" in result:
        rows = [
            [name, *(_figure(one[key]) for key in means), str(one["images"])]
            for name, one in (*result["domains"].items(), ("average", result))
        ]
        table(f"mIoU in percent ({result['metric']})", ["domain", *means.values(), "images"], rows)
        return
    rows = [[name, "absent" if iou is None else f"{iou:.2f}"] for name, iou in result["per_class"].items()]
    table(f"IoU over {result['images']} images ({result['metric']})", ["class", "%"], rows)
    totals = {
        **{label: result[key] for key, label in means.items()},
        "pixel accuracy": result["pixel_accuracy"],
        "best constant class": result["best_constant_class_miou"],
    }
    typer.echo("   ".join(f"{name} {_figure(value)}" for name, value in totals.items()))
    if "clips" in result:
        steady = {
            "mVC8": result["mvc8"],
            "mVC16": result["mvc16"],
            "constant over 8, right or not": result["constancy8"],
            "consistency under true flow": result["flow_consistency"],
        }
        about = f"{result['clips']} clips of up to {result['frames']} frames"
        how = "smoothed" if result["smooth"] else "each frame alone"
        typer.echo(f"{about}, {how}: " + "   ".join(f"{name} {_figure(v)}" for name, v in steady.items()))
