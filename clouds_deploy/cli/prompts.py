"""`clouds-deploy prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver, table


def prompts(
    out: Annotated[Path, typer.Option(help="Folder to make; its prompts.txt has one prompt per line.")],
    count: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 100,
    model: Annotated[
        str, typer.Option(help="Language model: smollm2, a hub id, a folder or a .gguf file.")
    ] = "smollm2",
    form: Annotated[
        str, typer.Option(help="slots: the model fills in a template; sentence: it writes whole sentences.")
    ] = "slots",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.05, help="Sampling temperature.")] = 0.6,
    top_p: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Nucleus sampling: probability mass to sample from.")
    ] = 0.8,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the prompts already in --out.")] = False,
    as_json: Json = False,
) -> None:
    """Write prompts of street scenes with a language model, balanced over weather, time, place and more.

    For example: clouds-deploy prompts --out prompts --count 100
    """
    from clouds_deploy.generation.prompts import prompts as write_prompts

    result = write_prompts(
        out, count=count, model=model, form=form, seed=seed, temperature=temperature, top_p=top_p,
        replace=replace,
    )  # fmt: skip
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    rows = [[fault, str(count)] for fault, count in result["refused"].items()]
    if rows:
        table("Rejected drafts", ["reason", "drafts"], rows)
    met = {name: sum(count > 0 for count in counts.values()) for name, counts in result["coverage"].items()}
    for line in result["examples"]:
        typer.echo(f"  {line}")
    typer.echo(
        f"{result['prompts']} prompts in {result['out']}, {result['distinct']} distinct, "
        f"from {result['drafts']} drafts in {result['seconds']:.0f} s: "
        + ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in met.items())
    )
