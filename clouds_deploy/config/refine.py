"""Options of the verb `refine`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from clouds_deploy.config.precision import Precision
from clouds_deploy.config.section import Positive, Section


class RefineOptions(Section):
    """How label maps are refined and what is written; the method's own settings are `RefineConfig`.

    Attributes:
        overrides: `key=value` of `RefineConfig` each.
        weights: SAM's weight file, or `random`; None for those that the package has.
        mode: `robust`, or `official`: the authors' rules.
        seed: Seed of the random points that `official` draws, and of random weights.
        confidences: Folder of the teacher's confidences, or shards with them; None takes those that `predict`
            wrote beside the labels, if it did.
        batch: Images that go to SAM together.
        classes: Label set of the labels, a shipped one's name or a file; None is the one that `predict` wrote
            beside them, else `cityscapes19`.
        overlays: Number of before-and-after pictures, spread over the folder.
        backend: Bundles only: what runs the graphs; None is ONNX Runtime.
        precision: What the backend computes in; `bf16` where it can (openvino).
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        shards: Whether to write tar shards; None writes them where shards are read.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """

    overrides: tuple[str, ...] = ()
    weights: str | Path | None = None
    mode: str = "robust"
    seed: int = 0
    confidences: str | Path | None = None
    batch: Positive = 8
    classes: str | Path | None = None
    overlays: Annotated[int, Field(ge=0)] = 4
    backend: str | None = None
    precision: Precision = "fp32"
    device: str = "auto"
    shards: bool | None = None
    runner: str = "local"
