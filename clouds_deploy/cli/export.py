"""`clouds-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def export(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|sam:NAME|RECIPE",
            help="A finished run, a SAM (sam:sam_tiny), a recipe (--weights random), a bundle (--triton).",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The bundle's folder, or one file: NAME.clouds.")] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(help="Prove it on this runtime, or build it: tensorrt-rtx, tensorrt. Repeatable."),
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
    bf16: Annotated[bool, typer.Option("--bf16", help="Make the graph BF16, with float32 islands.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Put the backbone's products into INT8.")] = False,
    calibrate: Annotated[
        Path | None, typer.Option(help="Of --int8: folder of images that ranges are taken from.")
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Labelled images, as for evaluate: the mIoU lost is a gate too.")
    ] = None,
    layout: Annotated[str | None, typer.Option(help="Their layout, or `streets`, drawn.")] = None,
    sm: Annotated[
        list[str] | None,
        typer.Option("--sm", help="Build for this compute capability, such as 89. Repeatable."),
    ] = None,
    batch: Annotated[str, typer.Option(help="Images an engine takes: least, likeliest, most.")] = "1,1,8",
    weights: Annotated[
        str | None,
        typer.Option(help="A SAM's weight file. `random`: a dry run of a SAM, or of a recipe."),
    ] = None,
    triton: Annotated[Path | None, typer.Option(help="Write a Triton model repository here.")] = None,
    triton_backend: Annotated[
        str, typer.Option(help="Of Triton: onnxruntime, openvino or tensorrt.")
    ] = "onnxruntime",
    triton_sam: Annotated[Path | None, typer.Option(help="A SAM's bundle: Triton refines, too.")] = None,
    as_json: Json = False,
) -> None:
    """Export a run or a SAM to ONNX, prove that it still computes the same, and build engines from it.

    For example: clouds-deploy export runs/a --out bundles/a --fp16 --engine tensorrt-rtx --sm 89
    """
    from clouds_deploy.artifacts import kind_of
    from clouds_deploy.bundles.bundle import KIND
    from clouds_deploy.bundles.packed import unpacked
    from clouds_deploy.errors import CloudsError
    from clouds_deploy.export.export import export as make

    if triton is not None and kind_of(bundle := unpacked(Path(run))) == KIND:
        deliver(_triton(bundle, triton, triton_backend, triton_sam), as_json, _render_triton)
        return
    if out is None:
        raise CloudsError("export has no --out", "say where the bundle is to be: --out bundles/a")
    try:
        least, likeliest, most = (int(size) for size in batch.split(","))
    except ValueError:
        raise CloudsError(f"--batch {batch} is no range", "give three numbers, such as 1,4,8") from None

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
        bf16=bf16,
        int8=int8,
        calibrate=calibrate,
        data=data,
        layout=layout,
        sms=tuple(sm or ()),
        batch=(least, likeliest, most),
        weights=weights,
    )
    if triton is not None:
        result["triton"] = _triton(unpacked(out), triton, triton_backend, triton_sam)
    deliver(result, as_json, _render)


def _triton(bundle: Path, out: Path, backend: str, sam: Path | None) -> dict[str, Any]:
    from clouds_deploy.serving.triton.config import TritonOptions
    from clouds_deploy.serving.triton.repository import write_repository

    return write_repository(bundle, out, TritonOptions(backend), sam=sam)


def _render_triton(result: dict[str, Any]) -> None:
    for name, backend in result["models"].items():
        typer.echo(f"{name}: {backend}")
    if result["build"]:
        typer.echo(f"first, in Triton's container on the GPU that serves: sh {result['build']}")
    typer.echo(f"tritonserver --model-repository={result['repository']}")


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
    for engine in result["engines"]:
        where = ", ".join(f"SM {sm}" for sm in engine["sms"]) or "this GPU"
        how = f"built in {engine['seconds']:.1f} s" + (", cached" if engine["cached"] else "")
        typer.echo(f"{engine['file']}: {engine['bytes'] / 2**20:.1f} MiB for {where}, {how}")
    typer.echo(f"{result['out']}: {result['size_mib']:.1f} MiB, {result['nodes']} nodes")
    if "triton" in result:
        _render_triton(result["triton"])
