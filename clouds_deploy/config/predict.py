"""Options of the verb `predict`."""

from __future__ import annotations

from pathlib import Path

from clouds_deploy.config.precision import Precision
from clouds_deploy.config.section import Section


class PredictOptions(Section):
    """How images are labelled and what is written.

    Attributes:
        backend: Bundles only: what runs the graph; None is ONNX Runtime.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: What the backend computes in; `bf16` where it can (openvino).
        vocabulary: Bundles with a text head only: a file of other classes, made by `embed_classes`.
        overlays: Whether to write the labels blended over each image, with a legend, too.
        confidences: Whether to write the model's confidence in each label, too, as `refine` reads it.
        smooth: Whether the class probabilities of a video's frames are carried along motion.
        shards: Whether to write tar shards; None writes them where shards are read.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """

    backend: str | None = None
    device: str = "auto"
    precision: Precision = "fp32"
    vocabulary: Path | None = None
    overlays: bool = True
    confidences: bool = False
    smooth: bool = False
    shards: bool | None = None
    runner: str = "local"
