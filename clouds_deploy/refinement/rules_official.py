"""The authors' refinement, rule by rule (docs/explanation/method.md 3.6)."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.labels import IGNORE, NUM_CLASSES
from clouds_deploy.refinement.changes import Refined, unchanged
from clouds_deploy.refinement.components import Component, Labels, Mask, find_components
from clouds_deploy.refinement.prompts import FREE, Floats, Pace, Plan


def plan_official(
    labels: Labels,
    config: RefineConfig,
    random: np.random.Generator,
    pace: Pace = FREE,
    classes: int = NUM_CLASSES,
) -> Plan:
    """Prompts for every large component: random points of it, all foreground, without a box.

    Args:
        labels: (H, W) uint8 train ids or 255.
        config: `min_area` (in proportion to the image), `points`, `erosion`.
        random: Chooses the points, without replacement.
        pace: Of the work; it may stop it.
        classes: Number of classes.

    Returns:
        The plan. A component that has fewer pixels than `points` (after erosion) is not asked about.
    """
    height, width = config.reference_size
    above = config.min_area * labels.size / (height * width)
    kept, points = [], []
    components = find_components(labels, above, classes)
    pace.admit(len(components), labels.size)
    for component in components:
        pace.pause()
        drawn = _draw(component, config, random)
        if drawn is not None:
            kept.append(component)
            points.append(drawn)
    placed = np.stack(points) if points else np.zeros((0, config.points, 2), np.float32)
    return Plan(tuple(kept), placed, np.ones(placed.shape[:2], np.float32), labels.shape)


def best_rated(plan: Plan, part: slice, low_res: Floats, scores: Floats) -> npt.NDArray[np.intp]:
    """The proposal whose predicted IoU is highest."""
    return np.asarray(scores.argmax(1), np.intp)


def _draw(component: Component, config: RefineConfig, random: np.random.Generator) -> Floats | None:
    mask = component.mask
    if config.erosion:
        mask = erode(mask, config.erosion)
    places = np.flatnonzero(mask)
    if len(places) < config.points:
        return None
    rows, columns = np.divmod(random.choice(places, config.points, replace=False), mask.shape[1])
    across, down = component.box[1].start, component.box[0].start
    return np.stack((columns + across, rows + down), -1).astype(np.float32)


def erode(mask: Mask, side: int) -> Mask:
    """The pixels around which a square of a side lies in the mask; beyond the array is outside."""
    before = side // 2
    around = ((before, side - 1 - before), (0, 0))
    for _ in range(2):  # columns, then rows
        mask = sliding_window_view(np.pad(mask, around), side, axis=0).all(-1).T
    return mask


def merge_official(labels: Labels, plan: Plan, masks: Iterable[Mask], config: RefineConfig) -> Refined:
    """Labels that follow SAM's masks: what a mask covers is its class, the rest is no class.

    Pixels in the masks of several components, even of one class, are removed from all of them
    (`remove_intersections`); the rest is united by class. Every remaining pixel is a plain negative. An image
    without prompts keeps its labels.

    Args:
        labels: (H, W) uint8 train ids or 255.
        plan: The prompts.
        masks: (H, W) bool, one per prompt; each is needed only once, and not held.
        config: `remove_intersections`.

    Returns:
        The refined labels.
    """
    prompts = len(plan.components)
    if not prompts:
        return unchanged(labels, negative=True)
    claims = np.zeros(labels.shape, np.uint8)  # 0, 1, or 2 for several
    out = np.full(labels.shape, IGNORE, np.uint8)
    united: dict[int, Mask] = {}
    for component, mask in zip(plan.components, masks, strict=True):
        out[mask] = component.label
        claims += mask & (claims < 2)
        if not config.remove_intersections:
            own = united.setdefault(component.label, np.zeros(labels.shape, np.bool_))
            own |= mask
    single = claims == 1
    out[~single] = IGNORE
    if config.remove_intersections:
        return Refined(out, ~single, prompted=prompts, accepted=prompts)
    several = claims > 1
    overlaps = {label: own & several for label, own in united.items()}
    classes = sum((m.astype(np.uint8) for m in overlaps.values()), np.zeros(labels.shape, np.uint8))
    for label, mask in overlaps.items():
        out[mask & (classes == 1)] = label  # claimed by several components, but of one class
    overlaps = {label: mask & (classes > 1) for label, mask in overlaps.items()}
    return Refined(out, claims == 0, overlaps, prompted=prompts, accepted=prompts)
