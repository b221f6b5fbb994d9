"""The command line's application: all verbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from clouds_deploy.cli import (
    ablate,
    bench,
    data,
    doctor,
    engine,
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
    help="CLOUDS (CVPR 2024): semantic segmentation that generalizes to unseen streets, from training to "
    "checked, measured and served engines.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `clouds-deploy quickstart`. "
    "Exit codes: 0 success, 1 a check failed, 2 wrong usage or input.",
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


_START, _TRAIN, _USE, _DEPLOY = "Start", "Training", "Images and labels", "Deployment"

_VERBS: dict[str, dict[str, Callable[..., None]]] = {
    _START: {"quickstart": quickstart.quickstart, "doctor": doctor.doctor},
    _TRAIN: {
        "train": train.train,
        "evaluate": evaluate.evaluate,
        "import": import_.import_,
        "ablate": ablate.ablate,
    },
    _USE: {
        "predict": predict.predict,
        "refine": refine.refine,
        "prompts": prompts.prompts,
        "generate": generate.generate,
        "tune-diffusion": tune_diffusion.tune_diffusion,
    },
    _DEPLOY: {
        "export": export.export,
        "selftest": selftest.selftest,
        "bench": bench.bench,
        "serve": serve.serve,
    },
}
for _panel, _verbs in _VERBS.items():
    for _name, _verb in _verbs.items():
        app.command(name=_name, rich_help_panel=_panel)(_verb)
app.add_typer(recipes.app, name="recipes", rich_help_panel=_START)
app.add_typer(data.app, name="data", rich_help_panel=_START)
app.add_typer(engine.app, name="engine", rich_help_panel=_DEPLOY)
