"""`clouds-deploy generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, Runner, deliver


def generate(
    out: Annotated[str, typer.Option(help="Folder to make, or to go on with, or s3://...")],
    prompts: Annotated[
        Path | None,
        typer.Option(help="What `clouds-deploy prompts` made, or a text file, one prompt a line."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="A text-to-image pipeline, hub id or folder; streets: drawn, without weights.")
    ] = "streets",
    count: Annotated[int | None, typer.Option(min=1, help="Images in all; default: one a prompt.")] = None,
    seed: Annotated[int, typer.Option(help="Another seed gives other images.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images made at once.")] = 4,
    shard: Annotated[str, typer.Option(help="k/n: this process is number k, from 0, of n.")] = "0/1",
    height: Annotated[int | None, typer.Option(min=8, help="Rows; default: the model's.")] = None,
    width: Annotated[int | None, typer.Option(min=8, help="Columns; default: the model's.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Denoising steps; default: the pipeline's.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; default: the pipeline's.")] = None,
    negative: Annotated[str, typer.Option(help="What should not be seen.")] = "",
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the denoiser first.")] = False,
    adapter: Annotated[
        str | None, typer.Option("--lora", help="A LoRA of the model: a folder, a file or a hub id.")
    ] = None,
    lora_scale: Annotated[float, typer.Option(help="How strongly it acts; 0: not at all.")] = 1.0,
    suffix: Annotated[str, typer.Option(help="Put after every prompt: words a LoRA was tuned on.")] = "",
    shards: Annotated[bool, typer.Option("--shards", help="Write tar shards.")] = False,
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Make images of prompts with a diffusion model; a killed run goes on where it was.

    For example: clouds-deploy generate --prompts prompts --model stabilityai/sdxl-turbo --out images
    """
    from clouds_deploy.generation.api import generate as make
    from clouds_deploy.generation.painter import Settings

    settings = Settings(height, width, steps, guidance, negative, precision, compiled)
    result = make(
        out, prompts=prompts, model=model, count=count, seed=seed, batch=batch, shard=shard, adapter=adapter,
        adapter_scale=lora_scale, suffix=suffix, settings=settings, shards=shards, runner=runner,
    )  # fmt: skip
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"{result['made']} images made in {result['seconds']:.0f} s by {result['model']}; "
        f"{result['images']} of {result['wanted']} in {result['out']}"
        + (f", {result['failed']} given up" if result["failed"] else "")
        + ("" if result["complete"] else "; other shards are not done yet")
    )
