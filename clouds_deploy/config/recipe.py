"""The keys of a segmenter's recipe, with their defaults and limits.

A recipe is YAML in the shape of `Recipe`. An unknown key is an error that names the nearest known one, values
are checked once, here, and every manifest holds the resolved recipe. Overrides (`train.lr=2e-4`) are parsed
as YAML too, so they mean the same as in a file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from clouds_deploy.config.export import ExportConfig
from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.config.model import ModelConfig
from clouds_deploy.config.section import Fraction, Name, Positive, Section
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels import CITYSCAPES, LabelSet, chosen_label_set

Classes = Annotated[
    LabelSet, BeforeValidator(chosen_label_set), PlainSerializer(lambda chosen: chosen.to_value())
]
"""A label set: a shipped one's name, a YAML or JSON file, or the set itself."""
MaybeClasses = Annotated[
    LabelSet | None,
    BeforeValidator(lambda value: None if value is None else chosen_label_set(value)),
    PlainSerializer(lambda chosen: None if chosen is None else chosen.to_value()),
]
ClassMap = dict[str, str | None]
"""Class of a dataset -> class of the model, or null to ignore it."""


class MoreData(Section):
    """A further data set to train on.

    Attributes:
        layout: Layout of the folder, such as `cityscapes`.
        root: Folder of the data set.
        split: Split to train on.
        repeat: Times that each of its images comes in a round over all data; above 1 for a small set.
        read_as: See `data.read_as`; null means the same.
    """

    layout: str
    root: Path
    split: str = "train"
    repeat: Positive = 1
    read_as: MaybeClasses = None


class DataConfig(Section):
    """Where labelled images come from, and the classes that are learnt.

    Attributes:
        classes: Label set of the model: `cityscapes19`, another set that ships (`cityscapes34`,
            `mapillary_v1_2`, `mapillary_v2`, `bdd100k`, `synthia16`, `camvid11`, `ade150`, `voc21`), or a
            YAML or JSON file (docs/guides/own-classes.md).
        read_as: Label set that the label files are written in, a name or a file. Null means `classes` for the
            layout `folder`, and what the layout defines for all others.
        val_read_as: The same for the data to evaluate on; null means `read_as`.
        map: Class of the data -> class of the model, such as `data.map={car: vehicle, bus: vehicle}`; null
            ignores a class. Classes of equal names need no entry, all others are ignored.
        layout: `streets` (synthetic scenes, made while training), or the layout of a folder: `cityscapes`,
            `folder`, ...
        root: Folder of the data set; for every layout but `streets`.
        train_split: Split to train on.
        val_layout: Layout of the data to evaluate on; null means `layout`.
        val_root: Folder of the data to evaluate on; null means `root`.
        val_split: Split to evaluate on.
        domain: Look of the scenes, `streets` only: `game`, `imagined` or `photo`.
        height: Height of a scene in pixels, `streets` only.
        width: Width of a scene in pixels, `streets` only.
        train_images: Number of different scenes to train on, `streets` only.
        val_images: Number of images to evaluate on; for a folder, null means all.
        sampling: Order of the training images: `uniform`, each once in a round; or `rare`, a class first,
            rare ones most often, then an image that has it (DAFormer).
        sampling_temperature: With `sampling: rare`; a class is drawn in proportion to
            exp((1 - share) / temperature).
        more: Further data sets to train on, such as `data.more=[{layout: cityscapes, root: DIR}]`.
    """

    classes: Classes = CITYSCAPES
    read_as: MaybeClasses = None
    val_read_as: MaybeClasses = None
    map: ClassMap = Field(default_factory=dict)
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
    sampling: Literal["uniform", "rare"] = "uniform"
    sampling_temperature: Annotated[float, Field(gt=0)] = 0.01
    more: tuple[MoreData, ...] = ()

    @model_validator(mode="after")
    def _maps_to_classes(self) -> DataConfig:
        for name, target in self.map.items():
            if target is not None and target not in self.classes.names:
                raise CloudsError(
                    f"`data.map` takes `{name}` to `{target}`, which label set `{self.classes.name}` lacks",
                    nearest(target, self.classes.names),
                )
        return self


class AugmentConfig(Section):
    """Training augmentation of labelled images (docs/explanation/method.md 3.4).

    Attributes:
        crop: Height and width of the training crop in pixels, multiples of 32.
        base_size: Height and width in pixels that an image is fitted into at scale 1; null keeps each
            image's own size.
        scale: Smallest and largest random scale.
        color_jitter: Whether brightness, contrast, saturation and hue are changed at random, as in SSD.
        flip: Probability of a horizontal flip.
        class_share: Minimum share of the crop that the class drawn by `data.sampling: rare` fills; up to 10
            crops are tried, and the best of them is taken.
    """

    crop: tuple[Positive, Positive] = (768, 768)
    base_size: tuple[Positive, Positive] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    color_jitter: bool = True
    flip: Fraction = 0.5
    class_share: Fraction = 0.01

    @model_validator(mode="after")
    def _sound(self) -> AugmentConfig:
        if any(side % 32 for side in self.crop):
            raise ValueError(f"crop {list(self.crop)} is not a multiple of 32 on both sides")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)} is not an interval of positive numbers")
        return self


class LossConfig(Section):
    """Weights of matcher and loss (docs/explanation/method.md 3.1; Mask2Former).

    Attributes:
        class_weight: Weight of the classes' cross-entropy, in the matcher's cost and in the loss.
        mask_weight: Weight of the masks' binary cross-entropy at sampled points.
        dice_weight: Weight of the masks' dice loss at sampled points.
        void_weight: Weight of the class `no object` in the cross-entropy.
        class_weights: Weights of the classes in the cross-entropy, by name (1 for those that are not named),
            or `auto`, from how often they occur in the training images; null weighs all alike.
        points: Points that each mask is compared at.
        oversample: Candidates for these points, as a multiple of `points`.
        uncertain: Share of the points that are the most uncertain candidates; the others are random.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    void_weight: float = 0.1
    class_weights: Literal["auto"] | dict[str, Annotated[float, Field(gt=0)]] | None = None
    points: Positive = 12544
    oversample: Annotated[float, Field(ge=1.0)] = 3.0
    uncertain: Fraction = 0.75


class TrainConfig(Section):
    """Optimisation (docs/explanation/method.md 3.2).

    Attributes:
        steps: Optimiser steps.
        batch_size: Images in a step, of all processes together.
        accumulate: Parts, one after the other, that each process computes its images of a step in. More parts
            need less memory and give the same gradient, to rounding.
        lr: Peak learning rate of AdamW.
        weight_decay: Weight decay of AdamW; norms and embeddings get none.
        clip_norm: Largest norm of the whole gradient; a longer one is scaled down to it.
        schedule: `constant`, `poly` (power 0.9 to zero) or `cosine` (to zero).
        warmup_steps: Steps of linear warm-up before the schedule.
        precision: `fp32`, or `bf16` by autocast; sampling locations of the pixel decoder stay in fp32.
        eval_every: Steps between evaluations; 0 evaluates only at the end.
        checkpoint_every: Steps between checkpoints.
        keep_checkpoints: Number of the newest checkpoints that stay on disk until the run is finished.
        keep_best: Whether the finished run has the weights of the evaluation with the highest mIoU, and those
            of the last step beside them; else it has those of the last step.
        log_every: Steps between lines in metrics.jsonl.
        workers: Processes that load data; 0 loads in the training process.
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
    keep_best: bool = False
    log_every: Positive = 20
    workers: Annotated[int, Field(ge=0)] = 4
    loss: LossConfig = LossConfig()

    @model_validator(mode="after")
    def _divides(self) -> TrainConfig:
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate {self.accumulate}"
            )
        if self.keep_best and not self.eval_every:
            raise ValueError("keep_best chooses among evaluations: set eval_every above 0")
        return self


class EvaluateConfig(Section):
    """How a segmenter is evaluated (docs/explanation/method.md 5).

    Attributes:
        short_side: Length in pixels that the short side of an image is resized to; null keeps its size,
            up to 33.5 million pixels.
        metric: `official` compares predictions and labels at the resized size, `native` at the label's own.
    """

    short_side: Positive | None = 1024
    metric: Literal["official", "native"] = "native"


class Recipe(Section):
    """A segmenter: its model, data, training, evaluation and export.

    Attributes:
        name: Name of the recipe.
        description: What the recipe is for, in the line that `recipes ls` shows.
        seed: Number that every random draw derives from.
        joint: Self-training on generated images; null trains on labelled images alone.
    """

    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 0
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    joint: SelfTrainingConfig | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = Field(default_factory=lambda: ExportConfig.model_validate({}))

    @model_validator(mode="after")
    def _weighs_classes(self) -> Recipe:
        weights, names = self.train.loss.class_weights, self.data.classes.names
        for name in weights if isinstance(weights, dict) else ():
            if name not in names:
                raise CloudsError(
                    f"`train.loss.class_weights` names the class `{name}`, which label set "
                    f"`{self.data.classes.name}` lacks",
                    nearest(name, names),
                )
        return self

    @property
    def counts_classes(self) -> bool:
        """Whether training goes by how often each class occurs."""
        return self.data.sampling == "rare" or self.train.loss.class_weights == "auto"

    def to_yaml(self) -> str:
        """The recipe as YAML with every default filled in, in the order of this file."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
