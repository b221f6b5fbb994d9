"""Results on stdout: a few lines for people, or one JSON object in the last line."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import typer


def deliver(result: dict[str, Any], as_json: bool, render: Callable[[dict[str, Any]], None]) -> None:
    """Prints the result of a command.

    Args:
        result: The return value of the verb's Python function.
        as_json: Whether to print JSON instead of the rendering.
        render: Prints the result for people.
    """
    if as_json:
        typer.echo(json.dumps(result, ensure_ascii=False, default=str))
    else:
        render(result)


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Prints a small table on stdout, all columns but the first aligned to the right."""
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
