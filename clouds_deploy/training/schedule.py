"""The learning rate: a function of the step alone, so a resumed run needs no memory of it."""

from __future__ import annotations

import math

from clouds_deploy.config.recipe import TrainConfig
from clouds_deploy.config.sam import SamTrainConfig

POLY_POWER = 0.9


def learning_rate(step: int, config: TrainConfig | SamTrainConfig) -> float:
    """Learning rate of one optimiser step.

    Warm-up multiplies the schedule by 1/warmup_steps, 2/warmup_steps, ..., 1; the schedule itself counts
    from step 0, as detectron2's warm-up schedules do (docs/explanation/method.md 3.2).

    Args:
        step: 0 for the first step, config.steps - 1 for the last.
        config: Names the schedule, its length and its peak; a SAM's is a cosine.

    Returns:
        The learning rate, more than 0 for every step in range.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    schedule = config.schedule if isinstance(config, TrainConfig) else "cosine"
    shape = 1.0
    if schedule == "poly":
        shape = math.pow(1.0 - step / config.steps, POLY_POWER)
    elif schedule == "cosine":
        shape = 0.5 * (1.0 + math.cos(math.pi * step / config.steps))
    return config.lr * warm * shape
