"""CLOUDS, from training to proven engines.

The verbs of the command line are functions here too, with the same names and arguments:

    import clouds_deploy
    clouds_deploy.train("tiny", out="runs/a")

Importing this package is cheap; the verbs and what they need load on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from clouds_deploy.errors import CloudsError

__version__ = "0.1.0"

_HOMES = {
    "ablate": "studies.ablation",
    "generate": "generation.api",
    "quickstart": "studies.quickstart",
    "serve": "serving.serve",
}
_VERBS = (
    "ablate",
    "bench",
    "data_check",
    "doctor",
    "evaluate",
    "export",
    "generate",
    "import_checkpoint",
    "predict",
    "quickstart",
    "refine",
    "selftest",
    "serve",
    "train",
)

__all__ = ["CloudsError", "__version__", *_VERBS]


def __getattr__(name: str) -> Any:
    if name in _VERBS:
        return getattr(import_module(f"clouds_deploy.{_HOMES.get(name, 'api')}"), name)
    raise AttributeError(f"module `clouds_deploy` has no attribute `{name}`")


def __dir__() -> list[str]:
    return sorted(__all__)
