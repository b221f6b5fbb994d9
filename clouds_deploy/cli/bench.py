"""`clouds-deploy bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import free_folder, newest_bundle
from clouds_deploy.cli.options import Device, Json
from clouds_deploy.cli.output import deliver, table

_TIMING, _SAM = "Timing", "SAM"


def bench(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(help="Bundles of segmenters or SAMs.", show_default="the newest bundle"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for results.json, summary.md and report.html.", show_default="bench/BUNDLE"
        ),
    ] = None,
    suite: Annotated[
        str, typer.Option(help="A set of settings: default, smoke, segmenter, sam, refine or zoo.")
    ] = "default",
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend to time. Repeatable.", show_default="torch, onnxruntime, openvino"),
    ] = None,
    device: Device = "auto",
    mixed_devices: Annotated[
        bool,
        typer.Option(
            "--mixed-devices", help="Let each backend compute where it can; no speed-up between devices."
        ),
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Seconds to spend on each backend.", show_default="5", rich_help_panel=_TIMING
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Interleaved rounds over all backends.", show_default="10", rich_help_panel=_TIMING
        ),
    ] = None,
    stages: Annotated[
        bool | None,
        typer.Option(
            help="Also time the device alone, transfers, and files to labels.",
            show_default="stages",
            rich_help_panel=_TIMING,
        ),
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(
            help="Also time these batches (of a SAM: numbers of prompts), such as 1,2,4,8.",
            rich_help_panel=_TIMING,
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="An earlier results.json to compare with; exit code 1 if anything became slower."),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(help="Prompts per call of the decoder.", show_default="1,64", rich_help_panel=_SAM),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="Weight file for PyTorch, if the bundle was made from one.", rich_help_panel=_SAM),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure latency and throughput of every backend, interleaved, with the agreement beside each speed.

    For example: clouds-deploy bench bundles/tiny --backend onnxruntime --backend openvino
    """
    from clouds_deploy.bench.suites import bench as run

    named = bundles or [newest_bundle(sam=True)]
    result = run(
        named,
        out=out or free_folder("bench", named[0].stem if named[0].is_file() else named[0].resolve().name),
        suite=suite,
        backends=backend or None,
        device=device,
        mixed_devices=mixed_devices,
        batch=batch,
        seconds=seconds,
        rounds=rounds,
        against=against,
        scaling=_numbers("--scaling", scaling) if scaling else None,
        prompts=_numbers("--prompts", prompts) if prompts else None,
        stages=stages,
        weights=weights,
    )
    deliver(result, as_json, _render)
    if result.get("against", {}).get("slower"):
        raise typer.Exit(1)


def _numbers(option: str, text: str) -> tuple[int, ...]:
    from clouds_deploy.errors import CloudsError

    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise CloudsError(f"{option} {text} is not a list of numbers from 1 on", "write them like 1,2,4")
    return found


def _render(result: dict[str, Any]) -> None:
    from clouds_deploy.bench.entries import named

    for bundle in result["bundles"]:
        rows = [
            [
                named(entry),
                f"{entry['p50_ms']:.1f}",
                f"{entry['p90_ms']:.1f}",
                f"{entry['p99_ms']:.1f}",
                entry["speedup_shown"],
                entry["agreement_shown"],
            ]
            for entry in bundle["results"]
        ]
        columns = ["backend", "p50 ms", "p90 ms", "p99 ms", "speed-up", bundle["compared"]]
        table(f"{bundle['name']}  {bundle['shape']}", columns, rows)
    for row in result.get("against", {}).get("rows", []):
        change = f"{row['change']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
        typer.echo(f"against: {row['bundle']} {row['backend']}: {change}, {row['verdict']}")
    typer.echo(f"report: {result['report']}")
