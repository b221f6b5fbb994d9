"""CLOUDS, from training to proven engines.

The verbs of the command line are functions here too, with the same names and arguments:

    import clouds_deploy
    clouds_deploy.train("tiny", out="runs/a")

Importing this package is cheap; the verbs and what they need load on first use.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from clouds_deploy.errors import CloudsError

__version__ = "0.1.0"

_VERBS = {
    "ablate": "studies.ablation",
    "bench": "bench.suites",
    "data_check": "data.check",
    "doctor": "doctor",
    **dict.fromkeys(
        ("engine_add", "engine_build", "engine_command", "engine_list", "engine_remove"), "inference.engines"
    ),
    "embed_classes": "export.embed",
    "evaluate": "evaluation.job",
    "export": "export.export",
    "generate": "generation.generate",
    "import_checkpoint": "models.importing.checkpoint",
    "predict": "inference.predict",
    "prompts": "generation.prompts",
    "quickstart": "studies.quickstart",
    "recipes": "config.shipped",
    "refine": "refinement.refine",
    "selftest": "inference.selftest",
    "serve": "serving.serve",
    "train": "training.train",
    "tune_diffusion": "generation.tune_diffusion",
}
"""The module, below this package, of every verb."""

__all__ = ["CloudsError", "__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(f"clouds_deploy.{_VERBS[name]}"), name)
    raise AttributeError(f"module `clouds_deploy` has no attribute `{name}`")


class VerbModule(ModuleType):
    """A module that has a verb's name; a call of it is a call of the verb.

    Python puts an imported module in the place of the function: from then on `clouds_deploy.export` is the
    package of that name.
    """

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """Calls the verb."""
        return __getattr__(self.__name__.rpartition(".")[2])(*arguments, **options)


def __dir__() -> list[str]:
    return sorted(__all__)
