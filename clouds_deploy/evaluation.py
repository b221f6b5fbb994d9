"""What `evaluate` measures, and on what: a run's or a bundle's predictions, a recipe's or a named dataset."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    from clouds_deploy.config import Recipe
    from clouds_deploy.data.dataset import Source


def predict_run(path: Path) -> tuple[Any, Recipe, str]:
    """Give what labels a batch of images with a run in PyTorch, its recipe, and `torch`."""
    import torch

    from clouds_deploy.models.store import load_run
    from clouds_deploy.training.evaluate import torch_predictor

    recipe, segmenter = load_run(path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch_predictor(segmenter, recipe.evaluate, device), recipe, "torch"


def predict_bundle(path: Path, backend: str) -> tuple[Any, Recipe, str]:
    """Give what labels a batch of images with a bundle on a runtime, its run's recipe, and the runtime."""
    import numpy as np

    from clouds_deploy.runtime.segmenter import BundleSegmenter

    segmenter = BundleSegmenter(path, backend)

    def predict(batch: Any) -> Any:
        return np.stack([segmenter.predict(image) for image in batch])

    return predict, segmenter.bundle.recipe, backend


def evaluation_source(
    recipe: Recipe,
    data: str | Path | None,
    layout: str | None,
    split: str,
    domain: str | None,
    images: int | None,
) -> tuple[Source, str]:
    """Open what to evaluate on: the recipe's validation images, with what was asked for put on top."""
    from clouds_deploy.training.domains import parse_domain
    from clouds_deploy.training.sources import STREETS, val_source

    section = recipe.data
    usual = section.val_layout or section.layout
    if data is not None:
        if layout == STREETS or (domain is not None and layout is None):
            raise CloudsError(f"`streets` are drawn, they have no folder {data}", "leave --data out")
        given = parse_domain(data, layout=layout, split=split, usual=usual)
        return given.source(images), str(given)
    name = STREETS if domain is not None and layout is None else layout or usual
    root = None if name == STREETS else section.val_root or section.root
    changes = {
        "val_layout": name,
        "val_root": root,
        "val_split": split,
        "domain": domain or section.domain,
        "val_images": images or (section.val_images if layout is None else None),
    }
    chosen = recipe.model_copy(update={"data": section.model_copy(update=changes)})
    what = f"streets/{chosen.data.domain}" if name == STREETS else f"{root} ({name}, {split})"
    return val_source(chosen), what
