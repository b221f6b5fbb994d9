"""`clouds-deploy bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def bench(
    bundles: Annotated[list[Path], typer.Argument(help="Bundles.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json, summary.md and report.html.")],
    backend: Annotated[
        list[str] | None, typer.Option(help="Time this backend; may be given several times.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Images per call.")] = 1,
    seconds: Annotated[float, typer.Option(min=0.1, help="Time to spend on each backend.")] = 5.0,
    as_json: Json = False,
) -> None:
    """Time every backend on the same images in the same run, agreement beside each speed."""
    from clouds_deploy.api import bench as run

    backends = tuple(backend or ("torch", "onnxruntime", "openvino"))
    deliver(run(bundles, out=out, backends=backends, batch=batch, seconds=seconds), as_json, _render)


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
        columns = ["backend", "p50 ms", "p90 ms", "p99 ms", "x torch", "labels equal"]
        table(f"{bundle['name']}  {bundle['shape']}", columns, rows)
    typer.echo(f"report: {result['report']}")
