"""Options of the verb `evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from clouds_deploy.config.precision import Precision
from clouds_deploy.config.recipe import ClassMap, MaybeClasses
from clouds_deploy.config.section import Section


class EvaluateOptions(Section):
    """What a model is evaluated on, and how.

    Attributes:
        data: A dataset's folder, `LAYOUT:ROOT` or `LAYOUT@SPLIT:ROOT`, or shards, also remote ones; several
            of them give each domain's figures and their average. None is for synthetic streets, or for what
            the run's recipe names.
        layout: A folder's layout; None is the one that the folder looks like, and of several the one that
            the run's recipe evaluates on.
        split: The folder's split.
        domain: Synthetic streets only: `game`, `imagined` or `photo`.
        images: Evaluate on this many of each only.
        clips: Evaluate on clips, in the order of time: `data` is `LAYOUT[@SPLIT]:ROOT` of a video data set,
            see `data.clips`, or a video file; else synthetic clips with true flow. `images` counts clips.
        frames: Of each clip use this many, from its first.
        smooth: Clips only: carry class probabilities along motion, as `predict --smooth` does.
        classes: Label set to compare in, a shipped one's name or a file; None is the model's.
        read_as: Label set that label files are written in; None is as `data.read_as` says.
        map: Class of the model or of the data -> class of the label set to compare in, null to ignore it.
            Classes of equal names need no entry.
        metric: `native` or `official`; None is the recipe's. A bundle gives labels at the image's own size,
            so it knows `native` only.
        checkpoint: Of a run, also one that is not finished: `best`, `last` or a number of steps; None is what
            it ended with.
        backend: Bundles only: what runs the graph; None is ONNX Runtime.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: What the backend computes in; `bf16` where it can (openvino).
        out: A folder for a record of every 32 images, so that a killed evaluation goes on there.
        runner: `local`, or `ray`: on all machines of a Ray cluster, which reach `out`.
    """

    data: str | Path | tuple[str | Path, ...] | None = None
    layout: str | None = None
    split: str = "val"
    domain: str | None = None
    images: int | None = None
    clips: bool = False
    frames: int = Field(default=24, ge=1)
    smooth: bool = False
    classes: MaybeClasses = None
    read_as: MaybeClasses = None
    map: ClassMap = Field(default_factory=dict)
    metric: str | None = None
    checkpoint: str | None = None
    backend: str | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    out: str | Path | None = None
    runner: str = "local"

    def given(self) -> list[str | Path]:
        """The data, as a list."""
        return [self.data] if isinstance(self.data, str | Path) else list(self.data or ())
