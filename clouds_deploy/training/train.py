"""`train`: a recipe becomes a run, whatever kind of model it trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    out: str | Path,
    resume: bool = False,
    init: str | Path | None = None,
) -> dict[str, Any]:
    """Train a segmenter on labelled images, or a promptable one (`sam_tiny`) on drawn scenes.

    See `training.segmenter.loop.train` and `training.sam.loop.train_sam`.

    Args:
        recipe: A shipped recipe's name, or a YAML file.
        overrides: `key=value` each.
        out: The run's folder.
        resume: Go on with the run there.
        init: Start a new run from this run's weights: a joint stage from its warm-up. A SAM's may be a file.
    """
    from clouds_deploy.config.shipped import is_sam_recipe, load_recipe, load_sam_recipe
    from clouds_deploy.refinement.build import online_refiner
    from clouds_deploy.training.processes import local_device
    from clouds_deploy.training.segmenter.loop import train as run

    if is_sam_recipe(str(recipe)):
        from clouds_deploy.training.sam.loop import train_sam

        made = load_sam_recipe(str(recipe), tuple(overrides))
        return train_sam(made, Path(out), resume=resume, init=Path(init) if init else None)
    resolved = load_recipe(str(recipe), tuple(overrides))
    start, mends = Path(init) if init else None, online_refiner(resolved, local_device())
    return run(resolved, Path(out), resume=resume, init=start, refine=mends)
