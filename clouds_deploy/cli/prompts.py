"""`clouds-deploy prompts`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.output import Json, deliver, table


def prompts(
    out: Annotated[Path, typer.Option(help="Folder to make: prompts.txt has one prompt a line.")],
    count: Annotated[int, typer.Option(min=1, help="How many prompts.")] = 100,
    model: Annotated[
        str, typer.Option(help="A language model: smollm2, a hub id, a folder, or a .gguf file.")
    ] = "smollm2",
    form: Annotated[
        str, typer.Option(help="slots: the model fills in a sentence; sentence: it writes the whole one.")
    ] = "slots",
    seed: Annotated[int, typer.Option(help="Another seed gives other prompts.")] = 0,
    temperature: Annotated[float, typer.Option(min=0.05, help="Lower is safer and duller.")] = 0.6,
    top_p: Annotated[
        float, typer.Option(min=0.05, max=1.0, help="Share of likely words to draw from.")
    ] = 0.8,
    replace: Annotated[bool, typer.Option("--replace", help="Replace prompts that are there.")] = False,
    as_json: Json = False,
) -> None:
    """Have a language model write prompts of street scenes, balanced over weather, time, place and more.

    For example: clouds-deploy prompts --out prompts --count 100
    """
    from clouds_deploy.generation.api import write_prompts

    result = write_prompts(
        out, count=count, model=model, form=form, seed=seed, temperature=temperature, top_p=top_p,
        replace=replace,
    )  # fmt: skip
    deliver(result, as_json, _render)


def _render(result: dict[str, Any]) -> None:
    rows = [[fault, str(count)] for fault, count in result["refused"].items()]
    if rows:
        table("Refused drafts", ["fault", "drafts"], rows)
    met = {name: sum(count > 0 for count in counts.values()) for name, counts in result["coverage"].items()}
    for line in result["examples"]:
        typer.echo(f"  {line}")
    typer.echo(
        f"{result['prompts']} prompts in {result['out']}, {result['distinct']} distinct, "
        f"of {result['drafts']} drafts in {result['seconds']:.0f} s: "
        + ", ".join(f"{count} {name}{'s' if count != 1 else ''}" for name, count in met.items())
    )
