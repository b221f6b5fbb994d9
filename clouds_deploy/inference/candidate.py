"""What is evaluated: a run or a bundle, as something that labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from clouds_deploy.artifacts import kind_of
from clouds_deploy.bundles.bundle import KIND
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError


@dataclass(frozen=True)
class Candidate:
    """A model that is ready to be evaluated.

    Attributes:
        predict: Labels a batch of images; see `evaluation.evaluate.evaluate`.
        recipe: What it was trained with.
        backend: What runs it.
        metric: How it is measured.
    """

    predict: Callable[..., Any]
    recipe: Recipe
    backend: str
    metric: Literal["native", "official"]


def open_candidate(path: Path, backend: str, metric: str | None) -> Candidate:
    """Open a run or a bundle.

    Args:
        path: Its directory.
        backend: Bundles only: the runtime.
        metric: `native` or `official`; None means the recipe's. A bundle gives labels at the image's own
            size, so it knows `native` only.

    Raises:
        CloudsError: It cannot be read, or there is no such metric.
    """
    if metric not in (None, "native", "official"):
        raise CloudsError(f"there is no metric `{metric}`", "known: `native`, `official`")
    if kind_of(path) == KIND:
        if metric == "official":
            raise CloudsError(
                "a bundle's labels have the image's own size", "use --metric native, or the run"
            )
        return _bundle(path, backend)
    return _run(path, metric)


def _run(path: Path, metric: str | None) -> Candidate:
    import torch

    from clouds_deploy.inference.segmenter import torch_predictor
    from clouds_deploy.models.clouds.store import load_run

    recipe, segmenter = load_run(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    official = (metric or recipe.evaluate.metric) == "official"
    predict = torch_predictor(segmenter, recipe.evaluate, device)
    return Candidate(predict, recipe, "torch", "official" if official else "native")


def _bundle(path: Path, backend: str) -> Candidate:
    import numpy as np

    from clouds_deploy.inference.segmenter import BundleSegmenter

    segmenter = BundleSegmenter(path, backend)

    def predict(batch: Any) -> Any:
        return np.stack([segmenter.predict(image) for image in batch])

    return Candidate(predict, segmenter.bundle.recipe, backend, "native")
