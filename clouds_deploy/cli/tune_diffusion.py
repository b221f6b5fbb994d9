"""`clouds-deploy tune-diffusion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver


def tune_diffusion(
    model: Annotated[str, typer.Argument(help="A Stable Diffusion or SDXL pipeline, hub id or folder.")],
    shots: Annotated[Path, typer.Argument(help="Folder with a few images of the domain.")],
    out: Annotated[Path, typer.Option(help="Folder to make; `generate --lora` takes it.")],
    prompt: Annotated[
        str,
        typer.Option(help="What they show, with a word that means nothing yet: 'a sks street'."),
    ],
    class_prompt: Annotated[
        str | None, typer.Option(help="The same without that word: turns prior preservation on.")
    ] = None,
    class_images: Annotated[
        Path | None, typer.Option(help="Folder with images of the class; default: the model makes some.")
    ] = None,
    class_count: Annotated[int, typer.Option(min=1, help="How many the model makes.")] = 100,
    prior_weight: Annotated[float, typer.Option(min=0, help="Weight of the class images' loss.")] = 1.0,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the update.")] = 4,
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 500,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    batch: Annotated[int, typer.Option(min=1, help="Shots in a step.")] = 1,
    height: Annotated[int | None, typer.Option(min=8, help="Rows of a crop; default: the model's.")] = None,
    width: Annotated[int | None, typer.Option(min=8, help="Columns of a crop; default: the model's.")] = None,
    flip: Annotated[bool, typer.Option("--flip", help="Mirror every second crop, by chance.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed gives another LoRA.")] = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32, fp16 or bf16.")] = "auto",
    save_memory: Annotated[
        bool, typer.Option("--save-memory", help="Compute activations twice instead of keeping them.")
    ] = False,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a tuning that was killed.")] = False,
    as_json: Json = False,
) -> None:
    """Tune a LoRA of a diffusion model on a few shots of a domain, DreamBooth-style.

    For example: clouds-deploy tune-diffusion stabilityai/stable-diffusion-xl-base-1.0 shots --out lora
    --prompt "a photo of a sks street" --class-prompt "a photo of a street"
    """
    from clouds_deploy.generation.tune_diffusion import tune_diffusion as run
    from clouds_deploy.generation.tuning import Tuning

    tuning = Tuning(rank, steps, lr, batch, height, width, flip, prior_weight, precision, save_memory)
    result = run(
        model, shots, out=out, prompt=prompt, class_prompt=class_prompt, class_images=class_images,
        class_count=class_count, seed=seed, checkpoint_every=checkpoint_every, resume=resume, tuning=tuning,
    )  # fmt: skip
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    first, last = result["loss"]
    also = f" and {result['class_images']} of their class" if result["class_images"] else ""
    typer.echo(
        f"{result['parameters']} weights tuned on {result['shots']} shots{also} in {result['steps']} steps, "
        f"{result['seconds']:.0f} s; loss {first:.4f} at first, {last:.4f} at last, in {result['out']}"
    )
