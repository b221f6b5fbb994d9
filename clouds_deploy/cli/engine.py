"""`clouds-deploy engine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Batch, EngineOption, Json, Sm, chosen_batch, chosen_options
from clouds_deploy.cli.output import deliver, table

app = typer.Typer(
    help="TensorRT engines of a bundle, made or added where they are to run.", no_args_is_help=True
)

_Bundle = Annotated[Path, typer.Argument(help="The bundle of a segmenter or of a SAM.")]
_Out = Annotated[
    Path | None,
    typer.Option(help="Write the changed bundle here, a folder or a .clouds file.", show_default="in place"),
]
_Engine = Annotated[str, typer.Option(help="tensorrt or tensorrt-rtx.")]


@app.command("build")
def build(
    bundle: _Bundle,
    engine: _Engine = "tensorrt",
    sm: Sm = None,
    batch: Batch = None,
    engine_option: EngineOption = None,
    out: _Out = None,
    as_json: Json = False,
) -> None:
    """Build engines from a bundle's graphs on this machine, and check them if they can run here.

    For example: clouds-deploy engine build bundles/tiny-fp16 --engine tensorrt
    """
    from clouds_deploy.inference.engines import engine_build as make

    result = make(
        bundle,
        engine=engine,
        sms=tuple(sm or ()),
        batch=chosen_batch(batch),
        engine_options=chosen_options(engine_option),
        out=out,
    )
    deliver(result, as_json, _render)


@app.command("add")
def add(
    bundle: _Bundle,
    file: Annotated[Path, typer.Argument(help="The engine (plan), such as trtexec wrote.")],
    graph: Annotated[
        str | None,
        typer.Option(
            help="The graph it was built from: segmenter, encoder or decoder.", show_default="the only one"
        ),
    ] = None,
    engine: _Engine = "tensorrt",
    version: Annotated[
        str | None,
        typer.Option(help="Version of TensorRT that built it.", show_default="the one installed here"),
    ] = None,
    out: _Out = None,
    as_json: Json = False,
) -> None:
    """Add an engine that was built elsewhere from one of the bundle's graphs.

    For example: clouds-deploy engine add bundles/tiny-fp16 segmenter.plan
    """
    from clouds_deploy.inference.engines import engine_add as take

    result = take(bundle, file, graph=graph, engine=engine, version=version, out=out)
    deliver(result, as_json, _render)


@app.command("ls")
def ls(bundle: _Bundle, as_json: Json = False) -> None:
    """List the engines of a bundle, and where each was run.

    For example: clouds-deploy engine ls bundles/tiny-fp16
    """
    from clouds_deploy.inference.engines import engine_list

    deliver(engine_list(bundle), as_json, _render)


@app.command("rm")
def rm(
    bundle: _Bundle,
    file: Annotated[str, typer.Argument(help="The engine's file, as `engine ls` shows it.")],
    out: _Out = None,
    as_json: Json = False,
) -> None:
    """Take an engine out of a bundle.

    For example: clouds-deploy engine rm bundles/tiny-fp16 segmenter-tensorrt-10.3.0-on_sm87.engine
    """
    from clouds_deploy.inference.engines import engine_remove

    deliver(engine_remove(bundle, file, out=out), as_json, _render)


@app.command("command")
def command(
    bundle: _Bundle,
    batch: Batch = None,
    engine_option: EngineOption = None,
    as_json: Json = False,
) -> None:
    """Print the trtexec lines that build a bundle's engines, and the lines that add them to it.

    For example: clouds-deploy engine command bundles/tiny-fp16
    """
    from clouds_deploy.inference.engines import engine_command as lines

    result = lines(bundle, batch=chosen_batch(batch), engine_options=chosen_options(engine_option))
    deliver(result, as_json, lambda found: typer.echo("\n".join(found["commands"])))


def _render(result: dict[str, Any]) -> None:
    if not result["engines"]:
        typer.echo(f"{result['bundle']} has no engines")
        return
    rows = [
        [
            Path(one["file"]).name,
            f"{one['bytes'] / 2**20:.1f} MiB",
            ", ".join(f"SM {sm}" for sm in one["sms"]) or str((one.get("built_on") or {}).get("gpu") or "?"),
            one["state"],
        ]
        for one in result["engines"]
    ]
    table(result["bundle"], ["engine", "size", "for", "state"], rows)
