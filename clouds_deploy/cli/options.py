"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, in the last line of stdout.")
]
Runner = Annotated[str, typer.Option(help="local, or ray: on all machines of a Ray cluster.")]
Shards = Annotated[
    bool | None,
    typer.Option("--shards/--no-shards", help="Write tar shards.", show_default="if shards are read"),
]
