"""How verbs hand over results: a few lines for people, or one JSON object as the last line of stdout."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object, last on stdout.")]

Shards = Annotated[
    bool | None,
    typer.Option("--shards/--no-shards", help="Write tar shards; default: where shards are read."),
]
Runner = Annotated[str, typer.Option(help="local, or ray: on all machines of a Ray cluster.")]


def deliver(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Print a verb's result.

    Args:
        result: What the verb's Python function gave.
        as_json: Whether to print JSON instead of the rendering.
        render: Prints the result for people, on stdout.
    """
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, default=str))
    else:
        render(result)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a small table on stdout; numbers (every column but the first) stand right."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    out = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        out.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        out.add_row(*(escape(cell) for cell in row))
    Console(highlight=False).print(out)
