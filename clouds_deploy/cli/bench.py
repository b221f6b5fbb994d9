"""`clouds-deploy bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def bench(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json, summary.md and report.html.")],
    suite: Annotated[
        str, typer.Option(help="Settings under one name: default, smoke, segmenter, sam, refine, zoo.")
    ] = "default",
    backend: Annotated[
        list[str] | None, typer.Option(help="Time this backend; may be given several times.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    seconds: Annotated[
        float | None, typer.Option(min=0.1, help="Time to spend on each backend.  [default: 5]")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, help="Turns the backends take.  [default: 10]")] = None,
    stages: Annotated[
        bool | None, typer.Option(help="Tell device, transfers and files apart.  [default: yes]")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="An earlier results.json: what became slower? Exit code 1 if any.")
    ] = None,
    scaling: Annotated[
        str | None, typer.Option(help="Time these batches (a SAM's prompts) too, e.g. 1,2,4,8.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="Prompts a call of a SAM's decoder.  [default: 1,64]")
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="A SAM's weight file for PyTorch, where its bundle has one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time every backend on the same images in the same run, agreement beside each speed."""
    from clouds_deploy.bench.suites import bench as run

    result = run(
        bundles,
        out=out,
        suite=suite,
        backends=backend or None,
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
        raise CloudsError(f"{option} {text} is no list of numbers from 1 on", "give them as 1,2,4")
    return found


def _render(result: dict[str, Any]) -> None:
    for bundle in result["bundles"]:
        rows = [
            [
                entry["backend"],
                f"{entry['p50_ms']:.1f}",
                f"{entry['p90_ms']:.1f}",
                f"{entry['p99_ms']:.1f}",
                entry["speedup_shown"],
                entry["agreement_shown"],
            ]
            for entry in bundle["results"]
        ]
        columns = ["backend", "p50 ms", "p90 ms", "p99 ms", "x torch", bundle["compared"]]
        table(f"{bundle['name']}  {bundle['shape']}", columns, rows)
    for row in result.get("against", {}).get("rows", []):
        change = f"{row['change']:.2f} ({row['low']:.2f}-{row['high']:.2f})"
        typer.echo(f"against: {row['bundle']} {row['backend']}: {change}, {row['verdict']}")
    typer.echo(f"report: {result['report']}")
