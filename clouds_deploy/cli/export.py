"""`clouds-deploy export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.newest import BUNDLES, free_folder, newest_run
from clouds_deploy.cli.options import (
    ENGINES_PANEL,
    Batch,
    EngineOption,
    Json,
    Sm,
    chosen_batch,
    chosen_options,
)
from clouds_deploy.cli.output import deliver, table

_GRAPH, _CHECKS, _TRITON = "Graph", "Checks", "Triton"


def export(
    run: Annotated[
        str | None,
        typer.Argument(
            metavar="RUN|sam:NAME|RECIPE",
            help="A finished run; a SAM (sam:sam_tiny); a recipe with --weights random, as a dry run; or a "
            "bundle with --triton.",
            show_default="the newest finished run",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The bundle's folder, or one file: NAME.clouds.",
            show_default="bundles/RUN, with -fp16, -bf16, -int8",
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="A SAM's weight file; or `random`, for a dry run of a SAM or of a recipe."),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Export recipe: a .yaml file, or segmenter or sam. Its keys override the run's.",
            rich_help_panel=_GRAPH,
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(help="Image height of the graph.", show_default="recipe's", rich_help_panel=_GRAPH),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(help="Image width of the graph.", show_default="recipe's", rich_help_panel=_GRAPH),
    ] = None,
    scores: Annotated[
        bool, typer.Option("--scores", help="Add class scores as a second output.", rich_help_panel=_GRAPH)
    ] = False,
    inference: Annotated[
        str,
        typer.Option(
            help="exact (as in the paper) or fast (sums classes at 1/4 size).", rich_help_panel=_GRAPH
        ),
    ] = "exact",
    fp16: Annotated[
        bool, typer.Option("--fp16", help="FP16 graph with float32 islands.", rich_help_panel=_GRAPH)
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="BF16 graph with float32 islands.", rich_help_panel=_GRAPH)
    ] = False,
    int8: Annotated[
        bool,
        typer.Option("--int8", help="INT8 matrix products in the backbone.", rich_help_panel=_GRAPH),
    ] = False,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Folder of images to calibrate --int8 with.", rich_help_panel=_GRAPH),
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="A backend to check the graph on (onnxruntime, openvino), or an engine to build "
            "(tensorrt-rtx, tensorrt), or none. Repeatable.",
            show_default="onnxruntime, openvino, and with --fp16 the engines that are installed",
            rich_help_panel=ENGINES_PANEL,
        ),
    ] = None,
    sm: Sm = None,
    batch: Batch = None,
    engine_option: EngineOption = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder of images to check the graph on as well.", rich_help_panel=_CHECKS),
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="Where PyTorch computes: auto, cpu, cuda or cuda:N.", rich_help_panel=_CHECKS),
    ] = "cpu",
    data: Annotated[
        str | None,
        typer.Option(
            help="Labelled images, as in `evaluate`: the loss of mIoU is checked as well.",
            rich_help_panel=_CHECKS,
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="Their layout; `streets` are synthetic and need no --data.", rich_help_panel=_CHECKS
        ),
    ] = None,
    triton: Annotated[
        Path | None, typer.Option(help="Write a Triton model repository here.", rich_help_panel=_TRITON)
    ] = None,
    triton_backend: Annotated[
        str, typer.Option(help="onnxruntime, openvino or tensorrt.", rich_help_panel=_TRITON)
    ] = "onnxruntime",
    triton_sam: Annotated[
        Path | None,
        typer.Option(help="Bundle of a SAM: Triton then refines labels too.", rich_help_panel=_TRITON),
    ] = None,
    as_json: Json = False,
) -> None:
    """Export a run or a SAM to ONNX, check that it gives the same results as PyTorch, and build engines.

    For example: clouds-deploy export runs/tiny --fp16 --engine tensorrt-rtx --sm 89
    """
    from clouds_deploy.artifacts import kind_of
    from clouds_deploy.bundles.bundle import KIND
    from clouds_deploy.bundles.packed import unpacked
    from clouds_deploy.export.export import export as make
    from clouds_deploy.serving.triton.repository import check_repository

    run = run or str(newest_run())
    if triton is not None:
        check_repository(triton, triton_backend, triton_sam)
    if triton is not None and kind_of(bundle := unpacked(Path(run))) == KIND:
        deliver(_triton(bundle, triton, triton_backend, triton_sam), as_json, _render_triton)
        return
    sizes = chosen_batch(batch)
    if out is None:
        kinds = {"-fp16": fp16, "-bf16": bf16, "-int8": int8}
        out = free_folder(BUNDLES, _name(run) + "".join(kind for kind, asked in kinds.items() if asked))

    result = make(
        run,
        out=out,
        engines=None if engine is None else tuple(engine),
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
        engine_options=chosen_options(engine_option),
        batch=sizes,
        weights=weights,
        device=device,
        recipe=recipe,
    )
    if triton is not None:
        result["triton"] = _triton(unpacked(out), triton, triton_backend, triton_sam)
    deliver(result, as_json, _render)


def _name(run: str) -> str:
    """What a bundle of it is called: `tiny` for runs/tiny, `sam_tiny` for sam:sam_tiny."""
    path = Path(run.removeprefix("sam:"))
    return path.stem if path.suffix in (".yaml", ".yml") else path.resolve().name


def _triton(bundle: Path, out: Path, backend: str, sam: Path | None) -> dict[str, Any]:
    from clouds_deploy.export.embed import fix_inputs
    from clouds_deploy.serving.triton.config import TritonOptions
    from clouds_deploy.serving.triton.repository import write_repository

    return write_repository(bundle, out, TritonOptions(backend), sam=sam, fix=fix_inputs)


def _render_triton(result: dict[str, Any]) -> None:
    for name, backend in result["models"].items():
        typer.echo(f"{name}: {backend}")
    if result["build"]:
        typer.echo(f"first build the engine, in Triton's container on the serving GPU: sh {result['build']}")
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
    table("Checks", ["check", "value", "limit", ""], rows)
    for engine in result["engines"]:
        where = ", ".join(f"SM {sm}" for sm in engine["sms"]) or "this GPU"
        how = f"built in {engine['seconds']:.1f} s" + (", cached" if engine["cached"] else "")
        how += ", run here" if engine.get("run_on") else ", not run: no such GPU is here"
        typer.echo(f"{engine['file']}: {engine['bytes'] / 2**20:.1f} MiB for {where}, {how}")
    typer.echo(f"{result['out']}: {result['size_mib']:.1f} MiB, {result['nodes']} nodes")
    if "triton" in result:
        _render_triton(result["triton"])
