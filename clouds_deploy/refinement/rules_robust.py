"""Refinement that takes outlines from SAM and classes from the teacher (docs/measurements/refinement.md)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from clouds_deploy.config.joint import RobustConfig
from clouds_deploy.data.images import fit_size
from clouds_deploy.labels import CITYSCAPES, IGNORE, LabelSet
from clouds_deploy.refinement.changes import Refined
from clouds_deploy.refinement.components import (
    Component,
    Labels,
    Mask,
    distance_outside,
    find_components,
    interior_points,
)
from clouds_deploy.refinement.prompts import FREE, Floats, Pace, Plan

_SURE = 0.5
"""Confidence below which even a small component gives way to a mask over it."""
_BORDER_ERROR = 0.6
"""Share of a teacher's labels that are wrong directly at a border."""
_LIKE = 1.5
"""Masks whose areas differ by less than about this factor compete by rating, others by size."""


@dataclass(frozen=True)
class Outlines:
    """What a label set says about the outlines of its classes.

    Attributes:
        count: Number of classes.
        peers: (count, count) bool, classes that count as one when the purity of a mask is judged: those of
            one group, whose outlines are similar and which a teacher confuses, often within one object.
        bounded: (count,) bool, things in a wide sense, whose masks show where they end; all others are stuff.
        small: (256,) bool by train id, classes whose components are small by nature: one too small for a
            prompt is not noise.
    """

    count: int
    peers: npt.NDArray[np.bool_]
    bounded: npt.NDArray[np.bool_]
    small: npt.NDArray[np.bool_]


@lru_cache(maxsize=8)
def outlines_of(label_set: LabelSet) -> Outlines:
    """What a label set says about outlines; without groups, things and small classes all are stuff."""
    groups = [c.group or c.train_id for c in label_set.classes]
    peers = np.array([[a == b for b in groups] for a in groups], np.bool_)
    small = np.zeros(256, np.bool_)
    small[: label_set.count] = [c.small for c in label_set.classes]
    bounded = np.array([c.thing or c.small for c in label_set.classes], np.bool_)
    return Outlines(label_set.count, peers, bounded, small)


CITYSCAPES_OUTLINES = outlines_of(CITYSCAPES)


def plan_robust(
    labels: Labels,
    confidence: Floats | None,
    config: RobustConfig,
    pace: Pace = FREE,
    outlines: Outlines = CITYSCAPES_OUTLINES,
) -> Plan:
    """Prompts for every component that is not tiny: points deep inside, where the teacher is certain, and a
    box.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32 in 0..1, or None.
        config: `smallest`, `points`.
        pace: Of the work; it may stop it.
        outlines: Of the label set.

    Returns:
        The plan: prompts of `points` points (fewer are padded) and two corners.
    """
    components = find_components(labels, config.smallest * labels.size, outlines.count)
    pace.admit(len(components), labels.size)
    points = np.zeros((len(components), config.points + 2, 2), np.float32)
    kinds = np.full(points.shape[:2], -1.0, np.float32)
    for i, component in enumerate(components):
        pace.pause()
        rows, columns = component.box
        weight = None if confidence is None else confidence[component.box]
        inside = interior_points(component.mask, config.points, weight)
        points[i, : len(inside)] = inside + np.array((columns.start, rows.start), np.float32)
        kinds[i, : len(inside)] = 1.0
        points[i, config.points :] = component.corners()
        kinds[i, config.points :] = 2.0, 3.0
    return Plan(tuple(components), points, kinds, labels.shape)


def most_agreeing(
    side: int, plan: Plan, part: slice, low_res: Floats, scores: Floats
) -> npt.NDArray[np.intp]:
    """The proposal with the highest predicted IoU times IoU with the component.

    Args:
        side: Side of the square that SAM's encoder gets.
        plan: The prompts.
        part: Which of them these are.
        low_res: (p, 3, L, L) float32 logits.
        scores: (p, 3) float32 predicted IoUs.

    Returns:
        (p,) the index of the best proposal for each prompt.
    """
    height, width = plan.size
    steps = (np.arange(low_res.shape[-1]) + 0.5) * (side / low_res.shape[-1])
    fitted = fit_size(height, width, long=side)
    rows = (steps * (height / fitted[0])).astype(np.intp)
    columns = (steps * (width / fitted[1])).astype(np.intp)
    seen = np.ix_(rows[rows < height], columns[columns < width])
    there = np.zeros(plan.size, np.bool_)
    agreement = np.zeros(scores.shape)
    for i, component in enumerate(plan.components[part]):
        there[component.box] = component.mask
        own = there[seen]
        there[component.box] = False
        masks = low_res[i, :, : own.shape[0], : own.shape[1]] > 0
        shared = np.count_nonzero(masks & own, axis=(1, 2))
        union = np.count_nonzero(masks | own, axis=(1, 2))
        agreement[i] = shared / np.maximum(union, 1)
    return np.asarray(((scores.clip(0, 1) + 0.01) * (agreement + 0.01)).argmax(1), np.intp)


@dataclass(frozen=True)
class _Taken:
    """An accepted mask: its class, SAM's predicted IoU, and which of two such masks counts where both are."""

    label: int
    rating: float
    rank: tuple[int, float]


def reliability(labels: Labels, confidence: Floats | None, border: float) -> Floats:
    """Probability that the teacher's label is right, for each pixel.

    Teachers are mostly wrong at the borders of their labels, where even confident labels are right in four
    cases of ten (measured on `imagined` and `photo` streets, docs/measurements/refinement.md), and rarely
    deep inside a region.

    Args:
        labels: (H, W) uint8 train ids or 255, which count as never right.
        confidence: (H, W) float32 in 0..1, or None; its root is a factor.
        border: See `RobustConfig`.

    Returns:
        (H, W) float32 in 0..1.
    """
    edge = np.zeros(labels.shape, np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    if not edge.any():
        right = np.ones(labels.shape, np.float32)
    else:
        depth = distance_outside(~edge, np.float32)
        right = 1 - _BORDER_ERROR * np.exp(depth / (-border * max(labels.shape)))
    if confidence is not None:
        right = right * np.sqrt(confidence)
    right[labels == IGNORE] = 0
    return np.asarray(right, np.float32)


def merge_robust(
    labels: Labels,
    confidence: Floats | None,
    plan: Plan,
    masks: Iterable[Mask],
    scores: Floats,
    config: RobustConfig,
    outlines: Outlines = CITYSCAPES_OUTLINES,
) -> Refined:
    """Labels whose outlines follow SAM where it is more certain than the teacher.

    A mask is accepted if its predicted IoU is high enough, it covers enough of its component, is not much
    larger, and enough of the teacher's labels in it are of the component's class or of one that is easily
    confused with it. Its class is the most frequent of these among the teacher's labels in it. Where masks
    overlap, the smaller one counts, or of two of similar size the one with the higher predicted IoU. It gives
    a pixel its class if its predicted IoU is above the reliability of the teacher's label there. Pixels of a
    component that neither its own mask nor another one covers are ignored, by the same comparison. All others
    keep the teacher's label: components without an accepted mask, and small components of small classes even
    where a mask covers them.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32 in 0..1, or None.
        plan: The prompts.
        masks: (H, W) bool, one per prompt; each is needed only once, and not held.
        scores: (P,) float32, predicted IoUs.
        config: The limits.
        outlines: Of the label set.

    Returns:
        The refined labels, without plain negatives.
    """
    taken: list[_Taken] = []
    kept = outlines.small[labels]
    if confidence is not None:
        kept &= confidence >= _SURE
    doubt = np.zeros(labels.shape, np.float32)
    winner = np.zeros(labels.size, np.int32)  # by pixel, the number of the mask that counts; 0 for none
    for component, mask, score in zip(plan.components, masks, scores, strict=True):
        own = component.mask
        kept[component.box] &= ~own
        found = _judge(labels, confidence, component, own, mask, float(score), config, outlines)
        if found is not None:
            doubt[component.box][own] = found.rating
            beaten = np.array([True, *(other.rank <= found.rank for other in taken)])
            taken.append(found)
            where = np.flatnonzero(mask)
            winner[where[beaten[winner[where]]]] = len(taken)
        elif score < config.rating:
            kept[component.box] |= own
    painted = np.array([IGNORE, *(found.label for found in taken)], np.uint8)[winner]
    rating = np.array([0, *(found.rating for found in taken)], np.float32)[winner]
    painted, rating = painted.reshape(labels.shape), rating.reshape(labels.shape)
    right = reliability(labels, confidence, config.border)
    claimed = painted != IGNORE
    out = np.where(claimed & ~kept & (rating > right), painted, labels)
    if config.disagreement == "ignore":
        out[~claimed & (doubt > right)] = IGNORE
    nothing = np.zeros(labels.shape, np.bool_)
    return Refined(out, nothing, prompted=len(plan.components), accepted=len(taken))


def _judge(
    labels: Labels,
    confidence: Floats | None,
    component: Component,
    own: Mask,
    mask: Mask,
    score: float,
    config: RobustConfig,
    outlines: Outlines,
) -> _Taken | None:
    """The mask with its class, or None where it is rejected."""
    if score < config.rating:
        return None
    area = int(np.count_nonzero(mask))
    covered = np.count_nonzero(mask[component.box] & own)
    if covered < max(config.coverage * component.area, 1):
        return None
    bounded = bool(outlines.bounded[component.label])
    growth, purity = (config.growth, config.purity) if bounded else (config.stuff_growth, config.stuff_purity)
    if area > growth * component.area:
        return None
    weights = None if confidence is None else confidence[mask]
    votes = np.bincount(labels[mask], weights, minlength=256)[: outlines.count]
    peers = np.flatnonzero(outlines.peers[component.label])
    if votes[peers].sum() < purity * votes.sum():
        return None
    rating = min(score, 1.0)
    rank = -int(np.log(area) / np.log(_LIKE)), rating
    return _Taken(int(peers[votes[peers].argmax()]), rating, rank)
