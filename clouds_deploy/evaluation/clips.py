"""Evaluation on clips: mIoU of all labelled frames, and how steady the labels are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.config.evaluate import EvaluateOptions
from clouds_deploy.console import progress
from clouds_deploy.data.clips import CLIPS, Clip, detect_clips, list_clips, street_clips, take
from clouds_deploy.data.sources import STREETS, VALIDATION_SEED
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.consistency import constancy, flow_consistency, video_consistency
from clouds_deploy.evaluation.evaluate import Evaluation
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.segmenter import Segmenter
from clouds_deploy.inference.smooth import Smoother
from clouds_deploy.labels import CITYSCAPES

_CLIPS = 10
"""Synthetic clips, where no number is given."""


def chosen_clips(segmenter: Segmenter, options: EvaluateOptions) -> tuple[list[Clip], str]:
    """Clips to evaluate on, and their name in the results.

    Raises:
        CloudsError: They are not available, or several data sets are given.
    """
    given = options.given()
    if len(given) > 1:
        raise CloudsError("clips of several data sets are evaluated one by one", "give one --data")
    if given:
        text = str(given[0])
        found = re.fullmatch(r"(\w+)(?:@([\w.-]+))?:(.+)", text, re.DOTALL)
        if found and not Path(text).exists() and found[1] in (*CLIPS, "video"):
            name, split, root = found[1], found[2] or options.split, Path(found[3])
        else:
            root, split = Path(text), options.split
            name = options.layout or detect_clips(root)
        if name == "folder" and split == "val" and (root / "images").is_dir():
            split = "all"
        clips = list_clips(name, root, split)
        return clips[: options.images], f"{root} ({name}, {split})"
    data = segmenter.recipe.data
    if options.domain is None and (data.val_layout or data.layout) != STREETS:
        raise CloudsError("no clips are given", "give --data LAYOUT:FOLDER, or --domain photo")
    domain, size = options.domain or data.domain, (data.height, data.width)
    count = options.images or _CLIPS
    return street_clips(domain, VALIDATION_SEED, count, options.frames, size), f"streets/{domain}"


def evaluate_clips(segmenter: Segmenter, options: EvaluateOptions) -> dict[str, Any]:
    """Labels clips frame by frame and compares.

    Args:
        segmenter: The model, with Cityscapes' 19 classes.
        options: `data`, `layout`, `split`, `domain`, `images`, `frames` and `smooth`.

    Returns:
        `Evaluation.to_dict()` of all labelled frames with `data`, `clips`, `frames`, `smooth`, `mvc8` and
        `mvc16` (see `video_consistency`), `constancy8` and `constancy16` (what VSPW's script computes), each
        the mean over all windows in percent, null where no clip has that many labelled frames in a row; and
        `flow_consistency` in percent, null without true flow.

    Raises:
        CloudsError: No frame is labelled; an option does not go with clips; see `chosen_clips`.
    """
    if segmenter.label_set != CITYSCAPES or options.classes or options.map or options.read_as:
        raise CloudsError(
            "clips are compared in Cityscapes' 19 classes", "give a model of them, no --classes"
        )
    if options.metric == "official" or options.runner != "local" or options.out is not None:
        raise CloudsError(
            "clips are evaluated in one go, at the labels' size", "leave out --metric, --runner and --out"
        )
    clips, what = chosen_clips(segmenter, options)
    matrix, scores, images = ConfusionMatrix(), _Steadiness(), 0
    with progress("clips", len(clips)) as advance:
        for number, clip in enumerate(clips):
            images += _one(segmenter, clip, options, matrix, scores)
            advance(number + 1)
    if not images:
        raise CloudsError(f"no frame of {what} is labelled", "check the root and split")
    facts = {"data": what, "clips": len(clips), "frames": options.frames, "smooth": options.smooth}
    return {**Evaluation(matrix, images, "native").to_dict(), **facts, **scores.percent()}


def _one(
    segmenter: Segmenter, clip: Clip, options: EvaluateOptions, matrix: ConfusionMatrix, scores: _Steadiness
) -> int:
    """Adds one clip; returns the number of its labelled frames."""
    label = Smoother(segmenter) if options.smooth else segmenter.predict
    truths: list[Any] = []
    found: list[Any] = []
    count, before = 0, None
    for frame in take(clip, options.frames):
        labels = label(frame.image)
        if before is not None and before[0].flow is not None and before[0].occluded is not None:
            scores.add_flow(*flow_consistency(before[1], labels, before[0].flow, before[0].occluded))
        before = frame, labels
        if frame.labels is None:
            scores.add(truths, found)
            truths, found = [], []
            continue
        matrix.update(labels, frame.labels)
        truths.append(frame.labels)
        found.append(labels)
        count += 1
    scores.add(truths, found)
    return count


class _Steadiness:
    """Windows of frames of all clips so far, and pixels under true flow."""

    def __init__(self) -> None:
        self._windows: dict[str, list[float]] = {f"{n}{k}": [] for n in ("mvc", "constancy") for k in (8, 16)}
        self._same = self._seen = 0

    def add(self, truths: Sequence[Any], found: Sequence[Any]) -> None:
        """Adds labelled frames that follow each other."""
        for length in (8, 16):
            self._windows[f"mvc{length}"] += video_consistency(truths, found, length)
            self._windows[f"constancy{length}"] += constancy(truths, found, length)

    def add_flow(self, same: int, seen: int) -> None:
        """Adds two frames under true flow; see `flow_consistency`."""
        self._same, self._seen = self._same + same, self._seen + seen

    def percent(self) -> dict[str, float | None]:
        """All figures in percent."""
        means = {k: 100 * float(np.mean(v)) if v else None for k, v in self._windows.items()}
        return {**means, "flow_consistency": 100 * self._same / self._seen if self._seen else None}
