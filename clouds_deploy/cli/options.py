"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError

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
VocabularyFile = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary",
        help="Bundles with a text head: other classes, a file that `clouds_deploy.embed_classes` made.",
        show_default="the bundle's own classes",
        rich_help_panel="Text head",
    ),
]
Runner = Annotated[str, typer.Option(help="local, or ray: on all machines of a Ray cluster.")]
Shards = Annotated[
    bool | None,
    typer.Option("--shards/--no-shards", help="Write tar shards.", show_default="if shards are read"),
]

ENGINES_PANEL = "Engines"
Sm = Annotated[
    list[str] | None,
    typer.Option(
        "--sm",
        help="TensorRT-RTX: build for this compute capability, such as 89. Repeatable.",
        show_default="this GPU's, or the recipe's",
        rich_help_panel=ENGINES_PANEL,
    ),
]
Batch = Annotated[
    str | None,
    typer.Option(
        help="Images per call of an engine: minimum,optimum,maximum.",
        show_default="recipe's",
        rich_help_panel=ENGINES_PANEL,
    ),
]
EngineOption = Annotated[
    list[str] | None,
    typer.Option(
        "--engine-option",
        help="How the builder works: NAME=VALUE, such as workspace_mib=2048; see the export recipes. "
        "Repeatable.",
        show_default="recipe's",
        rich_help_panel=ENGINES_PANEL,
    ),
]


def chosen_batch(batch: str | None) -> tuple[int, int, int] | None:
    """The range of a batch that was asked for.

    Raises:
        CloudsError: It is none.
    """
    if batch is None:
        return None
    try:
        least, likeliest, most = (int(size) for size in batch.split(","))
    except ValueError:
        raise CloudsError(f"--batch {batch} is not a range", "give three numbers, such as 1,4,8") from None
    return least, likeliest, most


def chosen_options(words: list[str] | None) -> dict[str, str]:
    """Values of `--engine-option`s by name.

    Raises:
        CloudsError: One is not of the form NAME=VALUE.
    """
    for word in words or ():
        if "=" not in word:
            raise CloudsError(f"--engine-option {word} has no value", "write NAME=VALUE")
    return dict(word.split("=", 1) for word in words or ())


def chosen_precision(precision: str, bf16: bool) -> str:
    """The precision to compute in, by either form of the option."""
    if not bf16:
        return precision
    say("  --bf16 is now --precision bf16")
    return "bf16"
