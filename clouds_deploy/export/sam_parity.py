"""The gates of a SAM: both graphs on every runtime against `segment_anything`'s own modules in PyTorch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy import seeds
from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import Session
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.sam import SamLimits
from clouds_deploy.export.gates import Gate, Tolerance, closeness, error_gate, share_gate
from clouds_deploy.inference.agreement import mask_overlaps
from clouds_deploy.inference.sam import Picture, fill_square
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, INDEX, LABELS, MASKS, POINTS, SCORES, SIZE
from clouds_deploy.models.sam.official import official_embeddings, official_masks

SEED = 20240618
POINT_PROMPTS = ((1, -1, -1, -1), (1, -1, -1, -1), (1, 1, 0, -1))
"""Labels of an image's prompts by points; the last, a point that is none, stands in for the box."""
BOX_PROMPTS = ((1, -1, 2, 3),)


@dataclass(frozen=True)
class Case:
    """Inputs of both graphs.

    Attributes:
        encoder: `image` and `size`.
        prompts: `image_index`, `point_coords` and `point_labels`.
    """

    encoder: dict[str, Array]
    prompts: dict[str, Array]

    def decoder(self, embeddings: Array) -> dict[str, Array]:
        """Give the decoder's inputs."""
        return {EMBEDDINGS: embeddings, **self.prompts}


def make_case(pictures: Sequence[Picture], side: int) -> Case:
    """Fit pictures to the encoder's square and draw prompts for each: single points, several, a box.

    Args:
        pictures: Each (H, W, 3) uint8 RGB.
        side: Of the square, in pixels.
    """
    random = seeds.generator(SEED)
    squares = np.zeros((len(pictures), side, side, 3), np.uint8)
    sizes = np.array([fill_square(s, p) for s, p in zip(squares, pictures, strict=True)], np.int32)
    index, points, labels = [], [], []
    for kinds in (POINT_PROMPTS, BOX_PROMPTS):  # the reference takes the two kinds apart
        for image, (rows, columns) in enumerate(sizes):
            for kind in kinds:
                places = random.uniform(0.05, 0.95, (4, 2)) * (columns, rows)
                places[2:] = np.sort(places[2:], axis=0)
                index.append(image)
                points.append(np.where(np.array(kind)[:, None] < 0, 0, places))
                labels.append(kind)
    return Case(
        {IMAGE: squares, SIZE: sizes},
        {
            INDEX: np.array(index, np.int64),
            POINTS: np.array(points, np.float32),
            LABELS: np.array(labels, np.float32),
        },
    )


def reference(sam: Any, case: Case) -> dict[str, Array]:
    """Compute what is right, one image at a time, by the official modules.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        case: The inputs.

    Returns:
        `image_embeddings`, `masks` (low-resolution logits), `iou_predictions`.

    Source: `SamPredictor.set_torch_image` and `predict_torch(multimask_output=True)` of `segment_anything`.
    """
    squares, sizes = case.encoder[IMAGE], case.encoder[SIZE]
    rows = [official_embeddings(sam, squares[i : i + 1], sizes[i : i + 1]) for i in range(len(squares))]
    embeddings = np.concatenate(rows)
    prompts = [case.prompts[name] for name in (INDEX, POINTS, LABELS)]
    found = [
        official_masks(sam, embeddings, *(array[i : i + 1] for array in prompts))
        for i in range(len(prompts[0]))
    ]
    masks, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    return {EMBEDDINGS: embeddings, MASKS: masks, SCORES: scores}


def prove_sam(
    engine: str,
    encoder: Path,
    decoder: Path,
    case: Case,
    expected: Mapping[str, Array],
    limits: SamLimits,
    *,
    name: str | None = None,
    options: Options | None = None,
    batched: bool = True,
) -> list[Gate]:
    """Run one runtime through all gates.

    Args:
        engine: A backend that reads ONNX.
        encoder: The encoder's graph.
        decoder: The decoder's graph.
        case: The inputs, of two images at least.
        expected: What `reference` gave for them.
        limits: The tolerances.
        name: What the gates call the runtime.
        options: How the runtime is to run.
        batched: Whether to look at batches too; images go one by one without.

    Returns:
        The gates, passed or not.

    Raises:
        CloudsError: The runtime is not installed or refuses a graph.
    """
    label = name or engine
    session = open_graph(encoder, engine, options)
    try:
        embeddings, gates = _encode(label, session, case, limits, batched)
    finally:
        session.close()
    tolerance = Tolerance(limits.error, limits.relative_error, 1 - limits.relative_error)
    count = f"{len(embeddings)} images"
    gates += closeness(label, "embedding", embeddings, expected[EMBEDDINGS], tolerance, count)
    session = open_graph(decoder, engine, options)
    try:
        found = session.run(case.decoder(expected[EMBEDDINGS]))
        whole = session.run(case.decoder(embeddings))
        if batched:
            gates += _prompt_invariance(label, session, case, embeddings, whole, limits)
    finally:
        session.close()
    count = f"{len(found[MASKS])} prompts on {count}, the reference's embeddings"
    gates += closeness(label, "mask", found[MASKS], expected[MASKS], tolerance, count)
    gates += closeness(label, "guessed IoU", found[SCORES], expected[SCORES], tolerance, count)
    return gates + mask_gates(label, whole, expected, limits)


def _encode(
    label: str, session: Session, case: Case, limits: SamLimits, batched: bool
) -> tuple[Array, list[Gate]]:
    feeds = case.encoder
    rows = [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(len(feeds[IMAGE]))]
    one = np.concatenate([session.run(row)[EMBEDDINGS] for row in rows])
    if not batched:
        return one, []
    twice = session.run({name: np.repeat(array[:1], 2, axis=0) for name, array in feeds.items()})[EMBEDDINGS]
    many = session.run(feeds)[EMBEDDINGS]
    return one, [
        error_gate(label, "equal rows stay equal", _apart(twice[1], twice[0]), 0.0, "one image twice"),
        error_gate(label, "batch 1 = batch N", _apart(many, one), limits.error, f"N = {len(many)}"),
    ]


def _prompt_invariance(
    label: str, session: Session, case: Case, embeddings: Array, found: Mapping[str, Array], limits: SamLimits
) -> list[Gate]:
    """A prompt's masks may not depend on the prompts beside it, nor on the images."""
    order = np.arange(len(found[MASKS]))[::-1]
    shuffled = {name: np.ascontiguousarray(array[order]) for name, array in case.prompts.items()}
    again = session.run({EMBEDDINGS: embeddings, **shuffled})[MASKS][order]
    last = len(embeddings) - 1
    mine = np.flatnonzero(case.prompts[INDEX] == last)[:1]
    alone = {name: array[mine] for name, array in case.prompts.items()} | {INDEX: np.zeros(1, np.int64)}
    single = session.run({EMBEDDINGS: np.ascontiguousarray(embeddings[last:]), **alone})[MASKS]
    count = f"{len(order)} prompts"
    return [
        error_gate(label, "shuffled prompts", _apart(again, found[MASKS]), limits.error, count),
        error_gate(
            label, "1 prompt = N prompts", _apart(single, found[MASKS][mine]), limits.error, f"of {count}"
        ),
    ]


def _apart(found: Array, expected: Array) -> float:
    """Give the largest difference as a share of the largest number."""
    largest = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(found.astype(np.float64) - expected).max()) / largest


def mask_gates(
    label: str, found: Mapping[str, Array], expected: Mapping[str, Array], limits: SamLimits
) -> list[Gate]:
    """Compare the masks that come out of both graphs together, cut at zero.

    Args:
        label: What the gates call the runtime.
        found: `masks`, from its own embeddings.
        expected: `masks` and `iou_predictions`.
        limits: The tolerances.
    """
    overall, overlaps, sizable = mask_overlaps(found[MASKS], expected[MASKS], expected[SCORES])
    count = f"{len(overlaps)} masks together, both graphs in a row"
    gates = [share_gate(label, "mask IoU", overall, limits.mask_iou, count)]
    if sizable.any():
        worst = float(overlaps[sizable].min())
        detail = f"of {int(sizable.sum())} masks that cover 1 % to 99 %"
        gates.append(share_gate(label, "mask IoU, worst", worst, limits.worst_mask_iou, detail))
    return gates
