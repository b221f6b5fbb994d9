"""Refinement that trusts SAM with outlines and the teacher with classes (docs/measurements/refinement.md)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clouds_deploy.config.joint import RobustConfig
from clouds_deploy.data.images import fit_size
from clouds_deploy.labels import CLASSES, IGNORE, NAMES, NUM_CLASSES
from clouds_deploy.refinement.changes import Refined
from clouds_deploy.refinement.components import (
    Component,
    Labels,
    Mask,
    distance_outside,
    find_components,
    interior_points,
)
from clouds_deploy.refinement.prompts import Floats, Plan

_MISTAKEN = (("car", "truck", "bus", "train"), ("person", "rider"), ("motorcycle", "bicycle"))
"""Things of one outline whose names a teacher mixes up, often within one of them."""
_SMALL = ("pole", "traffic light", "traffic sign", "person", "rider", "motorcycle", "bicycle")
"""Classes whose parts are small by nature: a part too small to be asked about is no speck of noise."""
_SURE = 0.5
"""Confidence below which even a small part yields to a mask over it."""
_BORDER_ERROR = 0.6
"""How often a teacher's label is wrong right at a border."""
_LIKE = 1.5
"""Masks whose areas differ by less than about this factor compete by rating, others by size."""


def _peers() -> npt.NDArray[np.bool_]:
    """Say which classes count as one when a mask's purity is judged: (19, 19) bool."""
    table = np.eye(NUM_CLASSES, dtype=np.bool_)
    for group in _MISTAKEN:
        ids = [NAMES.index(name) for name in group]
        table[np.ix_(ids, ids)] = True
    return table


PEERS = _peers()
BOUNDED = np.array([c.thing or c.name in _SMALL for c in CLASSES])
"""Classes of things, in a wide sense: a mask shows where they end. All others are stuff."""
SMALL = np.append(np.isin(NAMES, _SMALL), np.zeros(256 - NUM_CLASSES, np.bool_))


def plan_robust(labels: Labels, confidence: Floats | None, config: RobustConfig) -> Plan:
    """Ask about every component that is not tiny, by points deep inside where the teacher is sure, and a box.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32 in 0..1, or None.
        config: `smallest`, `points`.

    Returns:
        The plan: prompts of `points` points (fewer are padded) and two corners.
    """
    components = find_components(labels, config.smallest * labels.size)
    points = np.zeros((len(components), config.points + 2, 2), np.float32)
    kinds = np.full(points.shape[:2], -1.0, np.float32)
    for i, component in enumerate(components):
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
    """Choose the proposal that both SAM and the teacher like: predicted IoU times IoU with the component.

    Args:
        side: Of the square that SAM's encoder sees.
        plan: What was asked.
        part: Which of its prompts these are.
        low_res: (p, 3, L, L) float32 logits.
        scores: (p, 3) float32 predicted IoUs.

    Returns:
        (p,) the number of the best proposal of each.
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
    """A mask that passed: which class it is of, SAM's rating, and how large it is."""

    mask: Mask
    label: int
    rating: float
    area: int


def reliability(labels: Labels, confidence: Floats | None, border: float) -> Floats:
    """Say how probable the teacher's label is right, pixel by pixel.

    Teachers err at the borders of their labels, where even confident ones are right about four times in ten
    (measured on `imagined` and `photo` streets, docs/measurements/refinement.md), and hardly in the
    depth of a region.

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
        depth = distance_outside(~edge).astype(np.float32)
        right = 1 - _BORDER_ERROR * np.exp(depth / (-border * max(labels.shape)))
    if confidence is not None:
        right = right * np.sqrt(confidence)
    right[labels == IGNORE] = 0
    return np.asarray(right, np.float32)


def merge_robust(
    labels: Labels,
    confidence: Floats | None,
    plan: Plan,
    masks: Mask,
    scores: Floats,
    config: RobustConfig,
) -> Refined:
    """Redraw the outlines of components where SAM is surer than the teacher.

    A mask is taken if SAM rates it well, it covers enough of its component, does not outgrow it by far, and
    enough of the teacher's labels in it are of the component's class or of one easily mistaken for it. It is
    then of the one of these classes that the teacher gives most of it. Masks are laid one over another: a
    smaller one lies in front of a larger one, and of two alike in size the one rated better. The topmost
    gives a pixel its class if SAM's rating exceeds the teacher's reliability there. What a component loses
    to no other mask is ignored, by the same comparison. Everything else keeps the teacher's label: components
    that SAM has no good answer to and small parts of small classes even below a mask.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32 in 0..1, or None.
        plan: What was asked.
        masks: (P, H, W) bool, one a prompt.
        scores: (P,) float32, predicted IoUs.
        config: The limits.

    Returns:
        The refined labels; none of them is a plain negative.
    """
    taken: list[_Taken] = []
    kept = SMALL[labels]
    if confidence is not None:
        kept &= confidence >= _SURE
    doubt = np.zeros(labels.shape, np.float32)
    for component, mask, score in zip(plan.components, masks, scores, strict=True):
        kept[component.box] &= ~component.mask
        found = _judge(labels, confidence, component, mask, float(score), config)
        if found is not None:
            doubt[component.box][component.mask] = found.rating
            taken.append(found)
        elif score < config.rating:
            kept[component.box] |= component.mask
    painted = np.full(labels.shape, IGNORE, np.uint8)
    rating = np.zeros(labels.shape, np.float32)
    for found in sorted(taken, key=lambda t: (-int(np.log(t.area) / np.log(_LIKE)), t.rating)):
        painted[found.mask] = found.label
        rating[found.mask] = found.rating
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
    mask: Mask,
    score: float,
    config: RobustConfig,
) -> _Taken | None:
    """Refuse a mask, or say what it is a mask of."""
    if score < config.rating:
        return None
    area = int(np.count_nonzero(mask))
    covered = np.count_nonzero(mask[component.box] & component.mask)
    if covered < max(config.coverage * component.area, 1):
        return None
    bounded = bool(BOUNDED[component.label])
    growth, purity = (config.growth, config.purity) if bounded else (config.stuff_growth, config.stuff_purity)
    if area > growth * component.area:
        return None
    weights = None if confidence is None else confidence[mask]
    votes = np.bincount(labels[mask], weights, minlength=256)[:NUM_CLASSES]
    peers = np.flatnonzero(PEERS[component.label])
    if votes[peers].sum() < purity * votes.sum():
        return None
    return _Taken(mask, int(peers[votes[peers].argmax()]), min(score, 1.0), area)
