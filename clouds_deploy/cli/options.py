"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from clouds_deploy.console import say

Json = Annotated[
    bool, typer.Option("--json", help="Print the result as one JSON object, in the last line of stdout.")
]
Backend = Annotated[
    str | None,
    typer.Option(
        help="Bundles only: onnxruntime, openvino, tensorrt, tensorrt-rtx, torch, torch-compile, torch-aot.",
        show_default="onnxruntime",
    ),
]
Bf16 = Annotated[bool, typer.Option("--bf16", hidden=True, help="The earlier form of --precision bf16.")]
Precision = Annotated[
    str, typer.Option(help="fp32 or bf16: what OpenVINO computes in; bf16 needs a processor that has it.")
]
Device = Annotated[
    str, typer.Option(help="auto (a GPU if the backend can use one, else the CPU), cpu, cuda or cuda:N.")
]
Runner = Annotated[str, typer.Option(help="local, or ray: on all machines of a Ray cluster.")]
Shards = Annotated[
    bool | None,
    typer.Option("--shards/--no-shards", help="Write tar shards.", show_default="if shards are read"),
]


def chosen_precision(precision: str, bf16: bool) -> str:
    """The precision to compute in, by either form of the option."""
    if not bf16:
        return precision
    say("  --bf16 is now --precision bf16")
    return "bf16"
