"""The recipe's section on self-training; defaults as published (docs/explanation/method.md 3.3 to 3.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from clouds_deploy.config.precision import Precision
from clouds_deploy.config.section import Fraction, Positive, Section

Repeat = Annotated[float, Field(gt=0)]
Growth = Annotated[float, Field(ge=1)]
PseudoLabels = Annotated[
    Literal["online", "cached", "off"],
    BeforeValidator(lambda value: "off" if value is False else value),  # what YAML makes of a bare `off`
]


class RobustConfig(Section):
    """Refinement with `mode: robust` (docs/guides/refine.md).

    Attributes:
        smallest: Largest size of a component, as a share of the image, that SAM is not asked about; it keeps
            the teacher's label.
        points: Points inside a component that are given to SAM beside its box.
        rating: Minimum predicted IoU of a mask; below it the teacher's label stays.
        coverage: Minimum share of its component that a mask covers; below it the teacher's label stays.
        purity: Minimum share of a mask that the teacher labelled as the component's class or as one easily
            mistaken for it (car, truck, bus, train; person, rider; motorcycle, bicycle), weighted by
            confidence. For things, poles, lights and signs; below it the teacher's label stays.
        stuff_purity: The same minimum for stuff such as road and sky, whose outlines are less telling.
        growth: Maximum size of a thing's mask, as a multiple of its component; above it the teacher's label
            stays.
        stuff_growth: The same maximum for stuff.
        border: Distance from label borders over which the teacher's error falls to a third, as a share of the
            image's longer side.
        disagreement: Label of the pixels that a component loses and no other wins: `ignore`, or the
            `teacher`'s.
    """

    smallest: Fraction = 0.001
    points: Positive = 3
    rating: Fraction = 0.6
    coverage: Fraction = 0.5
    purity: Fraction = 0.3
    stuff_purity: Fraction = 0.4
    growth: Growth = 6.0
    stuff_growth: Growth = 3.0
    border: Annotated[float, Field(gt=0, le=1)] = 0.02
    disagreement: Literal["ignore", "teacher"] = "ignore"


class RefineConfig(Section):
    """How SAM refines the teacher's labels (docs/explanation/method.md 3.6).

    Attributes:
        mode: `official` follows the authors exactly; `robust` keeps small components and takes SAM's masks
            only where the teacher does not contradict them. The keys below, but `robust`, are of `official`.
        seed: Seed of the random points.
        min_area: Largest connected component, in pixels of an image of `reference_size`, that SAM is not
            asked about; in proportion to the area on images of other sizes.
        reference_size: Height and width in pixels that `min_area` refers to.
        points: Random points inside a component that are given to SAM.
        erosion: Side in pixels of the square that a component is eroded by before points are drawn; 0 for
            none. The authors use 3 where they switch it on.
        multimask: Whether SAM proposes three masks for each prompt, of which the best rated one is taken.
        remove_intersections: Whether pixels that several components claim are taken from all of them.
        robust: Limits of `mode: robust`.
    """

    mode: Literal["robust", "official"] = "robust"
    seed: Annotated[int, Field(ge=0)] = 0
    min_area: Annotated[int, Field(ge=0)] = 5000
    reference_size: tuple[Positive, Positive] = (768, 768)
    points: Positive = 5
    erosion: Annotated[int, Field(ge=0)] = 0
    multimask: Literal[True] = True
    remove_intersections: bool = True
    robust: RobustConfig = RobustConfig()


class SelfTrainingConfig(Section):
    """Self-training on labelled and generated images (docs/explanation/method.md 3.3 and 3.5).

    Attributes:
        generated_root: Folder of generated images without labels; null, with `data.layout: streets`, means
            synthetic streets of the domain `imagined`.
        generated_images: Number of generated images to use; null means all, and as many synthetic ones as
            there are labelled images.
        source_repeat: Frequency of each labelled image, relative to `generated_repeat`.
        generated_repeat: Frequency of each generated image, relative to `source_repeat`. Published for 5000
            images: 2.0 with GTA5, 0.7 with SYNTHIA, 0.2 with Cityscapes; about two images in a batch of
            eight.
        generated_share: Share of generated images in a batch; takes the place of both frequencies.
        ema_decay: Share of the teacher's weights that stays at an update; the rest is the student's.
        ema_every: Steps between updates of the teacher, the first at step 0.
        ema_warmup: Whether the teacher follows more closely at first: after n updates at most
            (1 + n) / (10 + n) of its weights stay.
        pseudo_labels: `online` labels generated images in each step, as the authors do; `cached` labels all
            of them at once and reads the labels from disk; `off` trains on labelled images alone.
        refresh_every: Steps after which `cached` labels are made anew; 0 keeps those of step 0.
        teacher_scales: Scales of the image that the teacher's scores are averaged over.
        teacher_flip: Whether the scores are averaged over mirror images too, after each pixel's scores are
            scaled to a sum of 1.
        min_confidence: Minimum mean confidence of the teacher in a class of an image; pixels of a class
            below it have no label. 0 keeps all classes, as the authors do.
        sam: Promptable segmenter that refines pseudo-labels: a name such as `sam_tiny` or `mobile_sam`, or
            the folder of a SAM's bundle. `sam_tiny@384` computes at 384 pixels, which is faster.
        sam_weights: Weight file of the SAM; null means the weights in the package, which only `sam_tiny` has.
            A bundle has its own.
        sam_backend: Backend that runs a SAM's bundle, such as `openvino`.
        sam_precision: Precision that the backend computes a SAM's bundle in; `bf16` with `openvino` only.
        refine: Refinement of pseudo-labels by SAM; null takes the teacher's labels as they are.
    """

    generated_root: Path | None = None
    generated_images: Positive | None = None
    source_repeat: Repeat = 1.0
    generated_repeat: Repeat = 2.0
    generated_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    ema_decay: Fraction = 0.999
    ema_every: Positive = 100
    ema_warmup: bool = False
    pseudo_labels: PseudoLabels = "online"
    refresh_every: Annotated[int, Field(ge=0)] = 0
    teacher_scales: Annotated[tuple[Repeat, ...], Field(min_length=1)] = (1.0,)
    teacher_flip: bool = False
    min_confidence: Fraction = 0.0
    sam: str = "sam_tiny"
    sam_weights: Path | None = None
    sam_backend: str = "onnxruntime"
    sam_precision: Precision = "fp32"
    refine: RefineConfig | None = RefineConfig()

    @property
    def trains_itself(self) -> bool:
        """Whether generated images are trained on at all."""
        return self.pseudo_labels != "off"

    @property
    def ignores(self) -> bool:
        """Whether unlabelled pixels of generated images are left out of the loss; else they are negatives."""
        robust = self.refine is not None and self.refine.mode == "robust"
        return robust or self.min_confidence > 0

    @model_validator(mode="after")
    def _one_meaning(self) -> SelfTrainingConfig:
        official = self.refine is not None and self.refine.mode == "official"
        if official and self.min_confidence > 0:
            raise ValueError(
                "refine.mode=official counts pixels without a label as negatives: set min_confidence=0"
            )
        return self
