"""`clouds-deploy selftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import newest_bundle
from clouds_deploy.cli.options import Bf16, Device, Json, Precision, chosen_precision
from clouds_deploy.cli.output import deliver, table


def selftest(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="The bundle of a segmenter or of a SAM.", show_default="the newest bundle"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="A backend to check. Repeatable.", show_default="all that read the graph"),
    ] = None,
    device: Device = "auto",
    precision: Precision = "fp32",
    bf16: Bf16 = False,
    as_json: Json = False,
) -> None:
    """Check a bundle on this machine: its reference images must give the same labels as at its export.

    For example: clouds-deploy selftest bundles/tiny --backend onnxruntime
    """
    from clouds_deploy.inference.selftest import selftest as run

    result = run(
        bundle or newest_bundle(sam=True),
        backends=tuple(backend or ()),
        device=device,
        precision=chosen_precision(precision, bf16),
    )
    deliver(result, as_json, _render)
    if not result["passed"]:
        raise typer.Exit(1)


def _render(result: dict[str, Any]) -> None:
    rows = [
        [
            f"{check['backend']} {check['name']}",
            f"{100 * check['value']:.4f} %",
            f">= {100 * check['limit']:g} %",
            "ok" if check["passed"] else "FAILED",
        ]
        for check in result["checks"]
    ]
    for proof in result["proofs"]:
        typer.echo(f"recorded in {proof}")
    table(f"{result['bundle']}, {result['precision']}", ["check", "value", "limit", ""], rows)
