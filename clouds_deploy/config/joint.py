"""The recipe's section on the joint stage: its constants, as published (docs/method.md 3.3 to 3.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from clouds_deploy.config.section import Fraction, Positive, Section

Repeat = Annotated[float, Field(gt=0)]
Growth = Annotated[float, Field(ge=1)]
PseudoLabels = Annotated[
    Literal["online", "cached", "off"],
    BeforeValidator(lambda value: "off" if value is False else value),  # what YAML makes of a bare `off`
]


class RobustConfig(Section):
    """What `mode: robust` does where the authors' rules lose too much (docs/refinement.md).

    Attributes:
        smallest: Components of at most this share of the image are not prompted for and keep their labels.
        points: Interior points of a component that make its prompt, beside its box.
        rating: Masks that SAM predicts a smaller IoU for are refused, and what it has no better answer to is
            left to the teacher.
        coverage: A mask that covers a smaller share of its component is refused.
        purity: A thing's mask (or a pole's, light's or sign's) is refused when the teacher gave less of it,
            weighed by confidence, to the component's class or to one easily mistaken for it (car, truck, bus,
            train; person, rider; motorcycle, bicycle).
        stuff_purity: The same for masks of stuff, whose outlines say less of what they are.
        growth: A thing's mask of more than this many times its component's pixels is refused.
        stuff_growth: The same for masks of stuff.
        border: How far from the borders of its labels the teacher errs, as a share of the image's longer
            side: the distance over which its error falls to a third.
        disagreement: What becomes of pixels that a component loses to no other: `ignore` them, or keep the
            `teacher`'s label.
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
    """How SAM mends the teacher's labels (docs/method.md 3.6).

    Attributes:
        mode: `official` follows the authors to the letter, `robust` loses nothing small and trusts SAM only
            where the teacher does not contradict it. All that follows but `seed` and `robust` is of
            `official`.
        seed: Of the random points; `robust` draws none.
        min_area: Connected components of a class of at most this many pixels are not prompted for, counted
            on an image of `reference_size`; on others in proportion to the area.
        reference_size: Height and width in pixels that `min_area` was chosen at.
        points: Random points inside a component that make its prompt.
        erosion: Side of the square that a component is eroded by before points are drawn, 0 for none; the
            authors' is 3 where they switch it on.
        multimask: Whether SAM proposes three masks per prompt, of which the one it rates best is taken.
        remove_intersections: Whether pixels claimed by several components are taken from all of them.
        robust: See `RobustConfig`.
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
    """Joint training on labelled and generated images, stage C (docs/method.md 3.3 and 3.5).

    Attributes:
        generated_root: Folder of generated images, which have no labels; null beside drawn streets means
            streets of `imagined`, drawn too.
        generated_images: How many of them to use; null means all, of drawn ones as many as labelled ones.
        source_repeat: How often a labelled image is drawn, relative to the other kind.
        generated_repeat: How often a generated image is drawn. Published, for 5000 images: 2.0 beside GTA5,
            0.7 beside SYNTHIA, 0.2 beside Cityscapes, which makes about two images in a batch of eight.
        generated_share: Share of the images in a batch that are generated, instead of the two before.
        ema_decay: Share of the teacher's head that stays at each of its updates.
        ema_every: Steps between these updates, the first at step 0.
        ema_warmup: Whether the teacher follows more closely at first: after n updates no more than
            (1 + n) / (10 + n) of it stay.
        pseudo_labels: `online` labels the generated images anew at each step, as the authors do; `cached`
            labels all of them at once and reads the labels from disk; `off` trains on the labelled images
            alone.
        refresh_every: Steps after which `cached` labels are made anew; 0 keeps those of step 0, which an
            almost standing teacher allows.
        teacher_scales: The teacher's scores are averaged over the image at these scales ...
        teacher_flip: ... and over its mirror images too, each pixel's scores first brought to a sum of 1.
        min_confidence: A class of an image's labels whose pixels the teacher is less sure of in the mean is
            left out of them, as not known: in mask classification every wrong segment weighs as much as a
            right one, however small. 0 leaves out none, as the authors do.
        sam: The promptable segmenter that refines: a name, see `models.sam.build.load_sam`, or the folder of
            a SAM's bundle, which runs on an engine. `sam_tiny@384` is quicker.
        sam_weights: Its weight file; null means those that the package has, which only `sam_tiny` does. A
            bundle has its own.
        sam_backend: Bundles only: the runtime, such as `openvino`.
        sam_precision: Bundles only: what the runtime computes in; `bf16` where it can (`openvino`).
        refine: See `RefineConfig`; null takes the teacher's labels as they are.
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
    sam_precision: Literal["f32", "bf16"] = "f32"
    refine: RefineConfig | None = RefineConfig()

    @property
    def trains_itself(self) -> bool:
        """Whether generated images are trained on at all."""
        return self.pseudo_labels != "off"

    @property
    def ignores(self) -> bool:
        """Whether pixels of generated images without a label are not known, instead of in no segment."""
        robust = self.refine is not None and self.refine.mode == "robust"
        return robust or self.min_confidence > 0

    @model_validator(mode="after")
    def _one_meaning(self) -> SelfTrainingConfig:
        official = self.refine is not None and self.refine.mode == "official"
        if official and self.min_confidence > 0:
            raise ValueError(
                "what min_confidence leaves out, refine.mode=official takes for negatives: use one of them"
            )
        return self
