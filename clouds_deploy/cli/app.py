"""The verbs, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

from clouds_deploy.cli import (
    ablate,
    bench,
    data,
    doctor,
    evaluate,
    export,
    generate,
    import_,
    predict,
    prompts,
    quickstart,
    recipes,
    refine,
    selftest,
    serve,
    train,
    tune_diffusion,
)

app = typer.Typer(
    name="clouds-deploy",
    help="CLOUDS (CVPR 2024), from training to proven engines: segmentation that holds up on unseen streets.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `clouds-deploy quickstart`. Exit codes: 0 ok, 1 a check failed, 2 usage.",
)


def _version(show: bool) -> None:
    if show:
        from clouds_deploy import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


app.command(name="quickstart")(quickstart.quickstart)
app.command(name="doctor")(doctor.doctor)
app.add_typer(recipes.app, name="recipes")
app.add_typer(data.app, name="data")
app.command(name="train")(train.train)
app.command(name="evaluate")(evaluate.evaluate)
app.command(name="predict")(predict.predict)
app.command(name="prompts")(prompts.prompts)
app.command(name="generate")(generate.generate)
app.command(name="tune-diffusion")(tune_diffusion.tune_diffusion)
app.command(name="refine")(refine.refine)
app.command(name="ablate")(ablate.ablate)
app.command(name="import")(import_.import_)
app.command(name="export")(export.export)
app.command(name="selftest")(selftest.selftest)
app.command(name="bench")(bench.bench)
app.command(name="serve")(serve.serve)
