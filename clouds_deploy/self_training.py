"""The recipe's section on the joint stage: its constants, as published (docs/method.md 3.3 to 3.6)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from clouds_deploy.sections import Fraction, Positive, Section

Repeat = Annotated[float, Field(gt=0)]


class RefineConfig(Section):
    """How SAM mends the teacher's labels (docs/method.md 3.6).

    Attributes:
        min_area: Connected components of a class of at most this many pixels are not prompted for, counted
            on an image of `reference_size`; on others in proportion to the area.
        reference_size: Height and width in pixels that `min_area` was chosen at.
        points: Random points inside a component that make its prompt.
        multimask: Whether SAM proposes three masks per prompt, of which the one it rates best is taken.
        remove_intersections: Whether pixels claimed by several components are taken from all of them.
    """

    min_area: Annotated[int, Field(ge=0)] = 5000
    reference_size: tuple[Positive, Positive] = (768, 768)
    points: Positive = 5
    multimask: bool = True
    remove_intersections: bool = True


class SelfTrainingConfig(Section):
    """Joint training on labelled and generated images, stage C (docs/method.md 3.3 and 3.5).

    Attributes:
        generated_root: Folder of generated images, which have no labels.
        source_repeat: How often a labelled image is drawn, relative to the other kind.
        generated_repeat: How often a generated image is drawn. Published, for 5000 images: 2.0 beside GTA5,
            0.7 beside SYNTHIA, 0.2 beside Cityscapes, which makes about two images in a batch of eight.
        ema_decay: Share of the teacher's head that stays at each of its updates.
        ema_every: Steps between these updates, the first at step 0.
        pseudo_labels: `online` labels the generated images anew at each step, as the authors do; `cached`
            once, before training, which the almost standing teacher allows; `off` trains on the labelled
            images alone.
        refine: See `RefineConfig`; null takes the teacher's labels as they are.
    """

    generated_root: Path | None = None
    source_repeat: Repeat = 1.0
    generated_repeat: Repeat = 2.0
    ema_decay: Fraction = 0.999
    ema_every: Positive = 100
    pseudo_labels: Literal["online", "cached", "off"] = "online"
    refine: RefineConfig | None = RefineConfig()
