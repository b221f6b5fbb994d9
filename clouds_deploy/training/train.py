"""`train`: a recipe becomes a run, whatever kind of model it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clouds_deploy.config.section import make_options
from clouds_deploy.config.train import TrainOptions


def train(recipe: str | Path, *, out: str | Path, **options: Any) -> dict[str, Any]:
    """Trains a segmenter on labelled images, or a promptable one (`sam_tiny`) on synthetic scenes.

    Args:
        recipe: Name of a shipped recipe, or path of a YAML file.
        out: Folder of the run.
        options: Further fields of `config.train.TrainOptions`.

    Returns:
        What `training.segmenter.loop.train` or `training.sam.loop.train_sam` returns.

    Raises:
        CloudsError: See there.
    """
    from clouds_deploy.config.shipped import is_sam_recipe, load_recipe, load_sam_recipe
    from clouds_deploy.refinement.refiner import online_refiner
    from clouds_deploy.training.processes import own_device

    given = make_options(TrainOptions, {"recipe": str(recipe), "out": out, **options})
    how: dict[str, Any] = {"resume": given.resume, "init": given.init, "device": given.device}
    if is_sam_recipe(given.recipe):
        from clouds_deploy.training.sam.loop import train_sam

        return train_sam(load_sam_recipe(given.recipe, given.overrides), given.out, **how)
    from clouds_deploy.training.segmenter.loop import train as train_segmenter

    resolved = load_recipe(given.recipe, given.overrides)
    refiner = online_refiner(resolved, own_device(given.device))
    return train_segmenter(resolved, given.out, refine=refiner, **how)
