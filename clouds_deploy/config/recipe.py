"""What a recipe may say: strict, frozen, and documented where it is defined.

A recipe is YAML in the shape of `Recipe`. Unknown keys are errors that name their nearest neighbour, values
are checked once, here, and the resolved recipe travels in every manifest. Overrides (`train.lr=2e-4`) are
parsed as YAML too, so they mean the same as in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import Field, model_validator

from clouds_deploy.config.export import ExportConfig
from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.config.model import ModelConfig
from clouds_deploy.config.section import Fraction, Positive, Section


class MoreData(Section):
    """A dataset to train on beside the first.

    Attributes:
        layout: Its layout.
        root: Its folder.
        split: Its split.
        repeat: How often it counts: small sets are drawn from too rarely otherwise.
    """

    layout: str
    root: Path
    split: str = "train"
    repeat: Positive = 1


class DataConfig(Section):
    """Where labelled images come from.

    Attributes:
        layout: `streets` (drawn on the fly), or the layout of a folder: `cityscapes`, `folder`, ...
        root: The folder, for every layout but `streets`.
        train_split: Split to train on.
        val_layout: Layout to evaluate on; null means `layout`.
        val_root: Folder to evaluate on; null means `root`.
        val_split: Split to evaluate on.
        domain: `streets` only: `game`, `imagined` or `photo`.
        height: `streets` only: scene height in pixels.
        width: `streets` only: scene width in pixels.
        train_images: `streets` only: how many different scenes to train on.
        val_images: How many images to evaluate on; for a folder, null means all.
        more: Datasets to train on beside this one, e.g. `data.more=[{layout: cityscapes, root: DIR}]`.
    """

    layout: str = "streets"
    root: Path | None = None
    train_split: str = "train"
    val_layout: str | None = None
    val_root: Path | None = None
    val_split: str = "val"
    domain: str = "game"
    height: Positive = 128
    width: Positive = 256
    train_images: Positive = 2000
    val_images: Positive | None = 100
    more: tuple[MoreData, ...] = ()


class AugmentConfig(Section):
    """Training augmentation of labelled images (docs/method.md 3.4).

    Attributes:
        crop: Height and width of the training crop in pixels, multiples of 32.
        base_size: Height and width that scale 1 fits the image into; null keeps each image's own size.
        scale: Lowest and highest random scale.
        color_jitter: Whether to apply the SSD colour jitter.
        flip: Probability of a horizontal flip.
    """

    crop: tuple[Positive, Positive] = (768, 768)
    base_size: tuple[Positive, Positive] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    color_jitter: bool = True
    flip: Fraction = 0.5

    @model_validator(mode="after")
    def _sound(self) -> AugmentConfig:
        if any(side % 32 for side in self.crop):
            raise ValueError(f"crop {list(self.crop)} is not a multiple of 32 on both sides")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} is not an interval of positive numbers")
        return self


class LossConfig(Section):
    """Weights of matcher and loss (docs/method.md 3.1; Mask2Former).

    Attributes:
        class_weight: Of the cross-entropy, in cost and loss.
        mask_weight: Of the point-wise binary cross-entropy.
        dice_weight: Of the dice loss.
        void_weight: Cross-entropy weight of the void class.
        points: Points sampled per mask.
        oversample: How many times `points` are drawn before the uncertain ones are kept.
        uncertain: Share of the kept points that are the most uncertain ones.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    void_weight: float = 0.1
    points: Positive = 12544
    oversample: Annotated[float, Field(ge=1.0)] = 3.0
    uncertain: Fraction = 0.75


class TrainConfig(Section):
    """Warm-up training, stage B (docs/method.md 3.2).

    Attributes:
        steps: Optimiser steps.
        batch_size: Images per step, of all processes together.
        accumulate: In how many parts, one after the other, each process computes its images of a step: more
            need less memory and give the same gradient, to rounding.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW; norms and embeddings get none.
        clip_norm: Largest norm of the whole gradient.
        schedule: `constant`, `poly` (power 0.9 to zero) or `cosine` (to zero).
        warmup_steps: Steps of linear warm-up before the schedule.
        precision: `fp32`, or `bf16` autocast (the pixel decoder's sampling locations stay fp32).
        eval_every: Steps between evaluations; 0 evaluates only at the end.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: How many of the newest checkpoints stay on disk until the run is finished.
        log_every: Steps between lines in metrics.jsonl.
        workers: Data-loading processes.
        loss: See `LossConfig`.
    """

    steps: Positive = 40000
    batch_size: Positive = 8
    accumulate: Positive = 1
    lr: Annotated[float, Field(gt=0)] = 1e-5
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip_norm: Annotated[float, Field(gt=0)] = 0.01
    schedule: Literal["constant", "poly", "cosine"] = "constant"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    eval_every: Annotated[int, Field(ge=0)] = 4000
    checkpoint_every: Positive = 4000
    keep_checkpoints: Positive = 2
    log_every: Positive = 20
    workers: Annotated[int, Field(ge=0)] = 4
    loss: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        return self


class EvaluateConfig(Section):
    """How the metric is taken (docs/method.md 5).

    Attributes:
        short_side: Images are resized so that their short side has this many pixels; null keeps their size.
        metric: `official` compares at the resized size, `native` at the label's own.
    """

    short_side: Positive | None = 1024
    metric: Literal["official", "native"] = "native"


class Recipe(Section):
    """One experiment, from images to engine.

    Attributes:
        name: Its name.
        description: One line for `recipes ls`.
        seed: The number every random draw derives from.
        joint: The joint stage, when the recipe is of one (see `SelfTrainingConfig`).
    """

    name: str
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    joint: SelfTrainingConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()

    def to_yaml(self) -> str:
        """Write the recipe out with every default filled in, in the order of this file."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
