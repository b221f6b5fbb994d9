"""`clouds-deploy generate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Device, Json, Runner
from clouds_deploy.cli.output import deliver

_MODEL, _IMAGES, _PARALLEL = "Model", "Images", "Parallel work"


def generate(
    out: Annotated[
        str, typer.Option(help="Folder (or s3://...) for the images. An interrupted run resumes.")
    ],
    prompts: Annotated[
        Path | None,
        typer.Option(help="Output of `clouds-deploy prompts`, or a text file with one prompt per line."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Number of images.", show_default="one per prompt")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    model: Annotated[
        str,
        typer.Option(
            help="Text-to-image model, a hub id or a folder; `streets`: synthetic, needs no weights.",
            rich_help_panel=_MODEL,
        ),
    ] = "streets",
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Denoising steps.", show_default="the model's", rich_help_panel=_MODEL),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(help="Guidance scale.", show_default="the model's", rich_help_panel=_MODEL),
    ] = None,
    precision: Annotated[
        str, typer.Option(help="auto, fp32, fp16 or bf16.", rich_help_panel=_MODEL)
    ] = "auto",
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the denoiser first.", rich_help_panel=_MODEL)
    ] = False,
    adapter: Annotated[
        str | None,
        typer.Option(
            "--lora", help="LoRA for the model: a folder, a file or a hub id.", rich_help_panel=_MODEL
        ),
    ] = None,
    lora_scale: Annotated[
        float, typer.Option(help="Strength of the LoRA; 0 turns it off.", rich_help_panel=_MODEL)
    ] = 1.0,
    height: Annotated[
        int | None,
        typer.Option(min=8, help="Image height.", show_default="the model's", rich_help_panel=_IMAGES),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(min=8, help="Image width.", show_default="the model's", rich_help_panel=_IMAGES),
    ] = None,
    negative: Annotated[
        str, typer.Option(help="Negative prompt: what the images should not show.", rich_help_panel=_IMAGES)
    ] = "",
    suffix: Annotated[
        str,
        typer.Option(
            help="Text after every prompt, such as the words a LoRA was tuned on.", rich_help_panel=_IMAGES
        ),
    ] = "",
    batch: Annotated[int, typer.Option(min=1, help="Images per call.", rich_help_panel=_PARALLEL)] = 4,
    shard: Annotated[
        str,
        typer.Option(help="k/n: this is process k, from 0, of n processes.", rich_help_panel=_PARALLEL),
    ] = "0/1",
    shards: Annotated[
        bool, typer.Option("--shards", help="Write tar shards.", rich_help_panel=_PARALLEL)
    ] = False,
    device: Device = "auto",
    runner: Runner = "local",
    as_json: Json = False,
) -> None:
    """Generate images from prompts with a diffusion model.

    For example: clouds-deploy generate --prompts prompts --model stabilityai/sdxl-turbo --out images
    """
    from clouds_deploy.config.generate import Settings
    from clouds_deploy.generation.generate import generate as make

    settings = Settings(height, width, steps, guidance, negative, precision, compiled)
    result = make(
        out, prompts=prompts, model=model, count=count, seed=seed, batch=batch, shard=shard, adapter=adapter,
        adapter_scale=lora_scale, suffix=suffix, settings=settings, shards=shards,
        device=device, runner=runner,
    )  # fmt: skip
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    typer.echo(
        f"{result['made']} images generated in {result['seconds']:.0f} s with {result['model']}; "
        f"{result['images']} of {result['wanted']} in {result['out']}"
        + (f", {result['failed']} failed" if result["failed"] else "")
        + ("" if result["complete"] else "; other processes have not finished")
    )
