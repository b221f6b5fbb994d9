"""What a recipe for a promptable segmenter may say (`kind: sam`)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import Field, model_validator

from clouds_deploy.config.section import Fraction, Positive, Section


class SamTinyConfig(Section):
    """`sam_tiny`: SAM's prompt encoder and mask decoder at a small size, on EfficientNet-Lite0.

    Attributes:
        image_size: Side in pixels of the square that the encoder sees once it is trained, a multiple of 32.
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
    """What SAM learns on: drawn scenes, nothing else.

    Attributes:
        domains: Domains of `streets`, drawn from in turn at random.
        shapes: Share of the images that show random textured shapes instead.
        whole: Share of the street images shown whole, as at inference; the others are crops.
        size: Width in pixels of the images that are trained on, a multiple of 64, at most the model's; they
            are half as high, like streets, and lie somewhere in the model's square.
        height: Rows of a street scene before it is scaled; it is twice as wide.
        views: Samples taken of each street, one after the other: their crops, looks and masks differ.
        masks: Masks prompted for per image.
        smallest: Smallest mask, as a share of the image.
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
        batch_size: Images per step.
        optimizer: `adamw`, or `muon` for the matrices and AdamW for the rest.
        lr: Peak learning rate; it falls as a cosine to zero. Muon's steps are scaled to AdamW's.
        trunk_lr: Share of it that the image encoder's ImageNet weights get; 0 keeps them.
        frozen_stages: Stages of the image encoder, the stem with the first, that keep their weights anyway.
        weight_decay: Norms, biases and embeddings get none.
        warmup_steps: Steps of linear warm-up.
        clip_norm: Largest norm of the gradient.
        corrections: Share of the steps whose prompts are corrected, by a point in the error and the mask
            before, and that learn from the last mask alone.
        rounds: Most points that correct; how many is drawn for each of those steps.
        frames: Share of the steps whose images stand letterboxed in a square, as at inference, with a quarter
            of the masks. In the other steps the mask decoder sees a window around each mask, which costs a
            fraction.
        wide: Share of the steps with windows of twice the side, for a quarter of the masks.
        window: Side in pixels of that window, a multiple of 4.
        precision: `fp32`, or `bf16` autocast.
        dense_weight: Of the loss on class and extent at every place, see `training.sam.dense`; 0 is SAM's own
            training.
        head_steps: First steps in which that loss teaches its own layer alone: weights that a training starts
            from come without it, and a layer that knows nothing would pull the encoder away.
        focal_weight: Of the focal loss (gamma 2, alpha 0.25), relative to 1 for dice and for the IoU's error.
        checkpoint_every: Steps between checkpoints; only the newest stays.
        log_every: Steps between lines in metrics.jsonl.
        eval_every: Steps between evaluations; 0 evaluates only at the end.
        eval_scenes: Street scenes of `imagined`, of a seed of their own, in an evaluation.
        workers: Processes that draw scenes.
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


class SamLimits(Section):
    """How far a deployed SAM may be from `segment_anything` in PyTorch.

    Attributes:
        error: Largest difference of embeddings, mask logits and guessed IoUs, as a share of the largest one's
            size.
        relative_error: Relative L2 norm of the differences.
        mask_iou: Least IoU, over the pixels of all, of the masks, cut at zero, that the reference rates best.
        worst_mask_iou: Least IoU of any of them that covers 1 % to 99 % of the image.
        flops: Share of the floating-point operations that must be in the precision.
    """

    error: Annotated[float, Field(gt=0)] = 1e-4
    relative_error: Annotated[float, Field(gt=0)] = 1e-4
    mask_iou: Fraction = 0.999
    worst_mask_iou: Fraction = 0.99
    flops: Fraction = 0.0


class SamExportConfig(Section):
    """What a SAM's export has to reach, and what `--fp16` and `--bf16` keep in float32.

    Attributes:
        fp32: Tolerances of the float32 graphs.
        fp16: Tolerances of the float16 graphs.
        bf16: Tolerances of the bfloat16 graphs.
        islands: Regexes, searched in `<module>/<node> <operation>`, of nodes that stay in float32.
    """

    fp32: SamLimits = SamLimits()
    fp16: SamLimits = SamLimits(error=0.1, relative_error=0.02, mask_iou=0.99, worst_mask_iou=0.95, flops=0.9)
    bf16: SamLimits = SamLimits(error=0.3, relative_error=0.1, mask_iou=0.98, worst_mask_iou=0.9, flops=0.9)
    islands: tuple[str, ...] = (r"LayerNormalization$", r"Softmax$", r"(Sin|Cos)$", r"^angles/")


class SamRecipe(Section):
    """One training of a small promptable segmenter.

    Attributes:
        kind: Always `sam`; a recipe without it is a segmenter's.
        name: Its name.
        description: One line for `recipes ls`.
        seed: The number every random draw derives from.
        model: See `SamTinyConfig`.
        data: See `SamDataConfig`.
        train: See `SamTrainConfig`.
    """

    example: ClassVar[str] = "sam_tiny"
    kind: Literal["sam"]
    name: str
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
        """Write the recipe out with every default filled in."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
