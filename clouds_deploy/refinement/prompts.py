"""Prompts for SAM and the masks it proposes: one row per component."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clouds_deploy.inference.sam import Embedded, Picture
from clouds_deploy.refinement.components import Component, Mask

Floats = npt.NDArray[np.float32]
PROMPTS_AT_ONCE = 64
"""Bounds the memory for masks: three of 256 x 256 for each of these are 48 MiB."""
_PIXELS_AT_ONCE = 1 << 22
"""Bounds the memory for masks of an image's own size."""


class Pace:
    """What work on one image asks of whoever ordered it; this one lets everything pass at once.

    Attributes:
        prompts: Prompts of one unit of work.
    """

    prompts = PROMPTS_AT_ONCE

    def admit(self, prompts: int, pixels: int) -> None:
        """Called when it is known how much there is to do, before it is done; may raise.

        Args:
            prompts: Prompts for SAM.
            pixels: Pixels of the image.
        """

    def pause(self) -> None:
        """Called between units of work, such as a call of SAM; may wait, or raise to stop."""


FREE = Pace()


class Promptable(Protocol):
    """What refinement needs of a SAM: `inference.sam.Sam`, or a substitute."""

    size: int
    name: str

    def embed(self, images: Sequence[Picture]) -> Embedded:
        """See `Sam.embed`."""
        ...

    def prompt(
        self,
        embedded: Embedded,
        image_index: npt.NDArray[Any],
        points: npt.NDArray[Any],
        labels: npt.NDArray[Any],
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """See `Sam.prompt`."""
        ...

    def masks(self, low_res: npt.NDArray[Any], size: tuple[int, int]) -> npt.NDArray[Any]:
        """See `Sam.masks`."""
        ...

    def describe(self) -> dict[str, Any]:
        """See `Sam.describe`."""
        ...


@dataclass(frozen=True)
class Plan:
    """The prompts for one image.

    Attributes:
        components: P components, one a prompt.
        points: (P, N, 2) float32, x and y in pixels of the image.
        labels: (P, N) float32, SAM's point labels: 1 foreground, 2 and 3 a box's corners, -1 nothing.
        size: Height and width of the image.
    """

    components: tuple[Component, ...]
    points: Floats
    labels: Floats
    size: tuple[int, int]


@dataclass(frozen=True)
class Proposals:
    """The masks that SAM proposes for a plan, one per prompt.

    Attributes:
        low_res: (P, L, L) float32 logits.
        scores: (P,) float32, the IoU that SAM predicts for each.
    """

    low_res: Floats
    scores: Floats


Choose = Callable[[Plan, slice, Floats, Floats], npt.NDArray[np.intp]]
"""(plan, which of its prompts, (p, 3, L, L) logits, (p, 3) scores) to the best proposal of each, (p,)."""


def propose(
    sam: Promptable,
    images: Sequence[Picture],
    plans: Sequence[Plan],
    choose: Choose,
    pace: Pace = FREE,
) -> list[Proposals]:
    """Encodes each image once, decodes the prompts of all together, and keeps one mask per prompt.

    Images without prompts are not encoded.

    Args:
        sam: The promptable segmenter.
        images: (H, W, 3) uint8 RGB, of any sizes.
        plans: One for each image, all with the same number of points a prompt.
        choose: Picks one of SAM's three proposals.
        pace: Of the work; it may stop it.

    Returns:
        Proposals of each image, in order.
    """
    asked = [i for i, plan in enumerate(plans) if plan.components]
    answers = [Proposals(np.zeros((0, 1, 1), np.float32), np.zeros(0, np.float32)) for _ in plans]
    if not asked:
        return answers
    embedded = sam.embed([images[i] for i in asked])
    counts = [len(plans[i].components) for i in asked]
    index = np.repeat(np.arange(len(asked)), counts)
    points = np.concatenate([plans[i].points for i in asked])
    labels = np.concatenate([plans[i].labels for i in asked])
    starts = np.concatenate(([0], np.cumsum(counts)))
    masks: list[list[Floats]] = [[] for _ in asked]
    ratings: list[list[Floats]] = [[] for _ in asked]
    for start in range(0, len(index), pace.prompts):
        pace.pause()
        stop = min(start + pace.prompts, len(index))
        low_res, scores = sam.prompt(embedded, index[start:stop], points[start:stop], labels[start:stop])
        for place in range(index[start], index[stop - 1] + 1):
            first, last = max(start, int(starts[place])), min(stop, int(starts[place + 1]))
            part = slice(first - int(starts[place]), last - int(starts[place]))
            own = slice(first - start, last - start)
            chosen = choose(plans[asked[place]], part, low_res[own], scores[own])
            rows = np.arange(len(chosen))
            masks[place].append(low_res[own][rows, chosen])
            ratings[place].append(scores[own][rows, chosen])
    for place, i in enumerate(asked):
        answers[i] = Proposals(np.concatenate(masks[place]), np.concatenate(ratings[place]))
    return answers


def each_mask(
    sam: Promptable, proposals: Proposals, size: tuple[int, int], pace: Pace = FREE
) -> Iterator[Mask]:
    """Masks of an image at its own size, one after the other; only a few are held at once.

    Args:
        sam: What made the proposals.
        proposals: Of one image.
        size: Its height and width.
        pace: Of the work; it may stop it.

    Yields:
        (H, W) bool, one of each prompt.
    """
    step = max(1, min(PROMPTS_AT_ONCE, _PIXELS_AT_ONCE // (size[0] * size[1])))
    for start in range(0, len(proposals.scores), step):
        pace.pause()
        yield from np.asarray(sam.masks(proposals.low_res[start : start + step], size), np.bool_)
