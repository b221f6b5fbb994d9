"""The keys of the recipe of a promptable segmenter (`kind: sam`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field, model_validator

from clouds_deploy.config.section import Fraction, Name, Positive, Section


class SamTinyConfig(Section):
    """`sam_tiny`: SAM's prompt encoder and mask decoder at a small size, on EfficientNet-Lite0.

    Attributes:
        image_size: Side in pixels of the encoder's square input at inference, a multiple of 32.
        prompt_width: Channels of image embeddings and prompts, a multiple of 32.
        decoder_feedforward: Hidden width of the mask decoder's two-way transformer.
    """

    image_size: Positive = 768
    prompt_width: Positive = 96
    decoder_feedforward: Positive = 256

    @model_validator(mode="after")
    def _fits(self) -> SamTinyConfig:
        for name in ("image_size", "prompt_width"):
            if getattr(self, name) % 32:
                raise ValueError(f"{name} {getattr(self, name)} is not a multiple of 32")
        return self


class SamDataConfig(Section):
    """Synthetic scenes that a SAM is trained on.

    Attributes:
        domains: Domains of synthetic streets; each scene is of a random one.
        shapes: Share of the images that show random textured shapes instead of a street.
        whole: Share of the street images that show the whole scene, as at inference; the others are crops.
        size: Width in pixels of a training image, a multiple of 64, at most `model.image_size`; its height is
            half of that, and it lies at a random place in the model's square.
        height: Height in pixels of a street scene before it is scaled; its width is twice that.
        views: Training images made of each street, with different crops, colours and masks.
        masks: Masks of each image that SAM is trained to find.
        smallest: Size of the smallest mask, as a share of the image.
        instances: Share of a street's masks that are instances; the others are connected parts of a class.
    """

    domains: tuple[Literal["game", "imagined"], ...] = ("game", "imagined")
    shapes: Fraction = 0.2
    whole: Fraction = 0.25
    size: Annotated[int, Field(gt=0, multiple_of=64)] = 128
    height: Positive = 192
    views: Positive = 1
    masks: Positive = 8
    smallest: Annotated[float, Field(gt=0, lt=1)] = 0.003
    instances: Fraction = 0.5


class SamTrainConfig(Section):
    """How SAM is trained (SAM, appendix A, "Training algorithm" and "Losses").

    Attributes:
        steps: Optimiser steps.
        batch_size: Images in a step.
        optimizer: `adamw`, or `muon` for matrices and AdamW for the other parameters.
        lr: Peak learning rate; it falls as a cosine to zero. Muon's steps are scaled to AdamW's.
        trunk_lr: Learning rate of the image encoder's ImageNet weights, as a share of `lr`; 0 freezes them.
        frozen_stages: Number of the image encoder's first stages that stay frozen; the stem belongs to the
            first.
        weight_decay: Weight decay; norms, biases and embeddings get none.
        warmup_steps: Steps of linear warm-up.
        clip_norm: Largest norm of the whole gradient; a longer one is scaled down to it.
        corrections: Share of the steps with corrected prompts: the mask so far and a point where it is wrong
            are given to SAM again, and only the last mask counts.
        rounds: Largest number of correcting points; each of those steps draws its own.
        frames: Share of the steps whose images are letterboxed in a square, as at inference, with a quarter
            of the masks. In the other steps the mask decoder sees a window around each mask, which costs a
            fraction.
        wide: Share of the steps with windows of twice the side and a quarter of the masks.
        window: Side in pixels of that window, a multiple of 4.
        precision: `fp32`, or `bf16` by autocast.
        dense_weight: Weight of the auxiliary loss on class and extent at every place (`training.sam.dense`);
            0 trains as SAM's authors do.
        head_steps: First steps in which the auxiliary loss trains its own layer alone. That layer starts
            untrained and would pull a trained encoder away.
        focal_weight: Weight of the focal loss (gamma 2, alpha 0.25); dice and the error of the predicted IoU
            have weight 1.
        checkpoint_every: Steps between checkpoints; the two newest stay until the run is finished.
        log_every: Steps between lines in metrics.jsonl.
        eval_every: Steps between evaluations; 0 evaluates only at the end.
        eval_scenes: Street scenes of the domain `imagined` in an evaluation; training uses other ones.
        workers: Processes that make scenes.
    """

    steps: Positive = 4000
    batch_size: Positive = 8
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: Annotated[float, Field(gt=0)] = 8e-4
    trunk_lr: Fraction = 0.2
    frozen_stages: Annotated[int, Field(ge=0, le=7)] = 0
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_steps: Annotated[int, Field(ge=0)] = 150
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    corrections: Fraction = 0.5
    rounds: Positive = 1
    frames: Fraction = 0.25
    wide: Fraction = 0.0
    window: Annotated[int, Field(gt=0, multiple_of=4)] = 96
    precision: Literal["fp32", "bf16"] = "fp32"
    focal_weight: Annotated[float, Field(ge=0)] = 20.0
    dense_weight: Annotated[float, Field(ge=0)] = 1.0
    head_steps: Annotated[int, Field(ge=0)] = 0
    checkpoint_every: Positive = 200
    log_every: Positive = 20
    eval_every: Annotated[int, Field(ge=0)] = 1000
    eval_scenes: Positive = 40
    workers: Annotated[int, Field(ge=0)] = 1

    @model_validator(mode="after")
    def _fits(self) -> SamTrainConfig:
        if self.frames + self.wide > 1:
            raise ValueError(f"frames {self.frames} and wide {self.wide} are more than all steps together")
        return self


class SamRecipe(Section):
    """A small promptable segmenter: its model, data and training.

    Attributes:
        kind: Always `sam`; a recipe without it is a segmenter's.
        name: Name of the recipe.
        description: What the recipe is for, in the line that `recipes ls` shows.
        seed: Number that every random draw derives from.
        model: The model.
        data: What it is trained on.
        train: How it is trained.
    """

    example: ClassVar[str] = "sam_tiny"
    kind: Literal["sam"]
    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    model: SamTinyConfig = SamTinyConfig()
    data: SamDataConfig = SamDataConfig()
    train: SamTrainConfig = SamTrainConfig()

    @model_validator(mode="after")
    def _crops_fit(self) -> SamRecipe:
        if self.data.size > self.model.image_size:
            raise ValueError(
                f"data.size {self.data.size} is larger than model.image_size {self.model.image_size}"
            )
        return self

    def to_yaml(self) -> str:
        """The recipe as YAML with every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
