"""`clouds-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def export(
    run: Annotated[Path, typer.Argument(help="A finished run.")],
    out: Annotated[Path, typer.Option(help="The bundle's folder.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="Prove it on this runtime; may be given several times.")
    ] = None,
    height: Annotated[int | None, typer.Option(help="Image height; default: the recipe's.")] = None,
    width: Annotated[int | None, typer.Option(help="Image width; default: the recipe's.")] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Give class scores as a second output.")] = False,
    inference: Annotated[
        str, typer.Option(help="exact (as in the paper) or fast (sums classes at 1/4 size).")
    ] = "exact",
    images: Annotated[
        Path | None, typer.Option(help="Folder of images for the gates to look at too.")
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help="Make the graph FP16, with float32 islands.")] = False,
    as_json: Json = False,
) -> None:
    """Export a run to ONNX, and prove that it still computes the same."""
    from clouds_deploy.api import export as make

    result = make(
        run,
        out=out,
        engines=tuple(engine or ("onnxruntime", "openvino")),
        height=height,
        width=width,
        scores=scores,
        inference=inference,
        images=images,
        fp16=fp16,
    )
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    rows = [
        [
            f"{gate['engine']} {gate['name']}",
            gate["shown"],
            gate["limit_shown"],
            "ok" if gate["passed"] else "FAILED",
        ]
        for gate in result["gates"]
    ]
    table("gates", ["gate", "value", "limit", ""], rows)
    typer.echo(f"{result['out']}: {result['size_mib']:.1f} MiB, {result['nodes']} nodes")
