"""The task gate: what an engine's differences cost where labels are known, in points of mIoU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.session import FixedInputs
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.export.gates import Gate, reference
from clouds_deploy.inference.letterbox import fit
from clouds_deploy.models.clouds.names import INPUT, LABELS
from clouds_deploy.models.clouds.segmenter import Inference, Segmenter

if TYPE_CHECKING:
    from clouds_deploy.data.sources import Source

TORCH = "torch"


def task_gates(
    engines: Mapping[str, str],
    graph: Path,
    segmenter: Segmenter,
    inference: Inference,
    source: Source,
    size: tuple[int, int],
    mean_color: Sequence[int],
    extra: Mapping[str, Array],
    limit: float,
) -> list[Gate]:
    """Compare the mIoU of a graph on runtimes with PyTorch's, both on letterboxed images.

    Args:
        engines: What the gates are said to be of, and the runtime of each.
        graph: The graph that will be deployed.
        segmenter: What it was exported from.
        inference: As in `Segmenter.scores`.
        source: Labelled images of any size.
        size: Height and width of the graph.
        mean_color: RGB that letterboxes are filled with.
        extra: What the graph takes beside images, by input name.
        limit: Points of mIoU that may be lost.

    Returns:
        A gate of each runtime.

    Raises:
        CloudsError: There are no images, one has no labels, or a runtime refuses the graph.
    """
    if len(source) == 0:
        raise CloudsError("there are no images to measure mIoU on", "check --data and --layout")
    sessions = {name: FixedInputs(open_graph(graph, engine), extra) for name, engine in engines.items()}
    matrices = {name: ConfusionMatrix() for name in (TORCH, *sessions)}
    red, green, blue = mean_color
    try:
        for index in range(len(source)):
            image, truth = source.load(index)
            if truth is None:
                raise CloudsError(f"{source.name(index)} has no labels", "give a split that has them")
            fitted, box = fit(image, *size, (red, green, blue))
            maps = {TORCH: reference(segmenter, fitted[None], inference)[LABELS][0]}
            for name, session in sessions.items():
                maps[name] = session.run({INPUT: fitted[None]})[LABELS][0]
            for name, labels in maps.items():
                matrices[name].update(box.restore(labels), truth)
    finally:
        for session in sessions.values():
            session.close()
    right = 100 * matrices[TORCH].miou()
    return [_gate(name, right, 100 * matrices[name].miou(), limit, len(source)) for name in sessions]


def _gate(engine: str, right: float, found: float, limit: float, images: int) -> Gate:
    lost = right - found
    shown, detail = f"{found:.2f} of {right:.2f}", f"{images} images, {lost:.3f} points lost"
    return Gate(engine, "mIoU kept", lost, limit, lost <= limit, detail, shown, f"{limit:g} less")
