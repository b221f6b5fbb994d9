"""The promptable segmenter that is served: masks of clicks, and refined label maps, on one thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from clouds_deploy.bundles.tensors import Array
from clouds_deploy.inference.sam import Embedded, Picture
from clouds_deploy.serving.batcher import Done
from clouds_deploy.serving.lifetime import Lifetime
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.turns import Turn, Turns

Refine = Callable[[Picture, Picture, Turn], Picture]
"""Image (H, W, 3) uint8 and train ids (H, W) uint8 to refined train ids; handed in by `serve`. It calls
`Turn.pause` between its units."""

ENGINE = "sam"
REMEMBERED = 64 * 2**20


class PointSam(Protocol):
    """The part of `inference.sam.Sam` that is used here."""

    name: str

    def embed(self, images: Any) -> Embedded:
        """See `Sam.embed`."""
        ...

    def prompt(
        self, embedded: Embedded, image_index: Array, points: Array, labels: Array
    ) -> tuple[Array, Array]:
        """See `Sam.prompt`."""
        ...

    def masks(self, low_res: Array, size: tuple[int, int]) -> Array:
        """See `Sam.masks`."""
        ...


@dataclass(frozen=True)
class Found:
    """SAM's answer to a prompt.

    Attributes:
        mask: (H, W) bool, the best of its proposals by its own rating.
        iou: That rating, about 0..1.
        remembered: Whether the image was known from an earlier prompt.
    """

    mask: npt.NDArray[np.bool_]
    iou: float
    remembered: bool


class Promptable:
    """A SAM behind a queue of its own, which remembers the last images.

    Clicking is a row of prompts on one image, and the encoder costs far more than the decoder: embeddings
    are kept, by the hash of the image's bytes, up to `REMEMBERED` bytes.

    Args:
        sam: The promptable segmenter; it is called once at a time.
        refine: Refines label maps with it.
        waiting: Requests in the queue.
        metrics: Where calls are counted.
    """

    def __init__(
        self, sam: PointSam, refine: Refine, *, waiting: int = 128, metrics: Metrics | None = None
    ) -> None:
        self.sam, self.name, self._refine = sam, sam.name, refine
        self._seen: OrderedDict[str, Embedded] = OrderedDict()
        counted = metrics or Metrics()
        self.queue = Turns(ENGINE, waiting=waiting, observe=counted.observer(ENGINE))
        counted.watch_queue(ENGINE, self.queue.__len__)

    def knows(self, key: str) -> bool:
        """Whether an image is remembered, and needs no decoding."""
        return key in self._seen

    def points(
        self,
        key: str,
        decode: Callable[[], Picture],
        points: Array,
        labels: Array,
        life: Lifetime | None = None,
    ) -> Future[Done[Found]]:
        """Queues one prompt.

        Args:
            key: Names the image: equal keys, equal images.
            decode: Decodes the image, (H, W, 3) uint8 RGB; called if it is not remembered.
            points: (N, 2) x and y in pixels.
            labels: (N,) 1 foreground, 0 background.
            life: Of the request.

        Returns:
            A future; it raises a `Refusal`, 422, where a point is outside of the image, and what `decode`
            raises.
        """

        def job(_: Turn) -> Found:
            embedded = self._seen.get(key)
            known = embedded is not None
            if embedded is None:
                embedded = self.sam.embed([decode()])
            self._remember(key, embedded)
            height, width = embedded.sizes[0]
            if not ((points >= 0) & (points < (width, height))).all():
                raise Refusal(
                    422, f"a point is outside of the {width} x {height} image", "send x and y in pixels"
                )
            low, ratings = self.sam.prompt(embedded, np.zeros(1, np.int64), points[None], labels[None])
            best = int(ratings[0].argmax())
            (mask,) = self.sam.masks(low[0, best : best + 1], embedded.sizes[0])
            return Found(mask, float(ratings[0, best]), known)

        return self.queue.submit(job, short=True, life=life)

    def refine(self, image: Picture, labels: Picture, life: Lifetime | None = None) -> Future[Done[Picture]]:
        """Queues a label map to refine.

        Args:
            image: (H, W, 3) uint8 RGB.
            labels: (H, W) uint8 train ids or 255.
            life: Of the request; when it has ended, the work stops.
        """
        return self.queue.submit(lambda turn: self._refine(image, labels, turn), life=life)

    def warm_up(self) -> None:
        """Runs once, so that no request waits for a first time."""
        gray = np.full((64, 64, 3), 127, np.uint8)
        embedded = self.sam.embed([gray])
        self.sam.prompt(embedded, np.zeros(1, np.int64), np.full((1, 1, 2), 32.0), np.ones((1, 1)))

    def close(self) -> None:
        """Finish the queue."""
        self.queue.close()

    def _remember(self, key: str, embedded: Embedded) -> None:
        self._seen[key] = embedded
        self._seen.move_to_end(key)
        held = sum(one.features.nbytes for one in self._seen.values())
        while held > REMEMBERED and len(self._seen) > 1:
            held -= self._seen.popitem(last=False)[1].features.nbytes
