"""`clouds-deploy recipes ls|cat|cp`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clouds_deploy.cli.options import Json
from clouds_deploy.cli.output import deliver

app = typer.Typer(help="List, show and copy the recipes of this package.", no_args_is_help=True)


@app.command("ls")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes and what each is for."""
    from clouds_deploy.config.shipped import recipes

    def render(result: dict[str, Any]) -> None:
        width = max(len(name) for name in result["recipes"])
        for name, description in result["recipes"].items():
            typer.echo(f"{name:<{width}}  {description}")

    deliver(recipes(), as_json, render)


@app.command("cat")
def show_recipe(
    recipe: Annotated[
        str, typer.Argument(help="A recipe's name, or a .yaml file; export/segmenter and export/sam too.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Keys to change.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a recipe with all its keys, defaults included."""
    from clouds_deploy.config.shipped import resolve_recipe

    resolved = resolve_recipe(recipe, tuple(overrides or ()))
    deliver(resolved.model_dump(mode="json"), as_json, lambda _: typer.echo(resolved.to_yaml(), nl=False))


@app.command("cp")
def copy_recipe(
    recipe: Annotated[str, typer.Argument(help="A recipe's name.")],
    destination: Annotated[Path, typer.Argument(help="File or folder to copy it to.")] = Path(),
    as_json: Json = False,
) -> None:
    """Copy a recipe to a file that can be edited and given to `train`."""
    from clouds_deploy.config.shipped import copy_recipe as copy

    path = copy(recipe, destination)
    deliver({"path": str(path)}, as_json, lambda _: typer.echo(f"wrote {path}"))
