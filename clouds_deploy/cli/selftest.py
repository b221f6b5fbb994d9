"""`clouds-deploy selftest`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def selftest(
    bundle: Annotated[Path, typer.Argument(help="The bundle of a segmenter or of a SAM.")],
    backend: Annotated[
        list[str] | None, typer.Option(help="onnxruntime, openvino; repeatable. Default: both.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where to run.")] = "cpu",
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute in bfloat16 (openvino).")] = False,
    as_json: Json = False,
) -> None:
    """Run a bundle's reference inputs on this machine and compare with what was packed at its export.

    For example: clouds-deploy selftest bundles/a --backend onnxruntime
    """
    from clouds_deploy.inference.selftest import selftest as run

    result = run(bundle, backends=tuple(backend or ()), device=device, precision="bf16" if bf16 else "f32")
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
    table(f"{result['bundle']}, {result['precision']}", ["check", "value", "limit", ""], rows)
