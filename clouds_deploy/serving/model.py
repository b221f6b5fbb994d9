"""The segmenter that is served: a bundle on a backend, behind one queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import open_session
from clouds_deploy.backends.session import Session
from clouds_deploy.bundles.bundle import KIND, Bundle, open_bundle
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import named_set
from clouds_deploy.serving.batcher import Batcher, Done
from clouds_deploy.serving.limits import Refusal
from clouds_deploy.serving.metrics import Metrics
from clouds_deploy.serving.statistics import Statistics

Row = dict[str, Array]
ENGINE = "segmenter"


@dataclass(frozen=True)
class Batching:
    """How requests share a call of the backend.

    Attributes:
        largest: Images per call; a graph of a fixed batch takes no more than that.
        delay: Seconds that the first of a call may wait for others.
        waiting: Requests at once, and images of one request.
    """

    largest: int = 8
    delay: float = 0.002
    waiting: int = 128


class ServedModel:
    """A bundle that labels single images, gathered into batches.

    Args:
        bundle: Its directory.
        backend: What runs it.
        name: What clients call it; None takes the recipe's name.
        device: See `backends.options.Options`.
        threads: See `backends.options.Options`.
        batching: How requests share a call.
        metrics: Where calls are counted.
        vocabulary: Other classes than the bundle's own, text head only.

    Raises:
        CloudsError: See `open_session`; the graph takes something else than one image.
    """

    def __init__(
        self,
        bundle: Path,
        backend: str = "onnxruntime",
        *,
        name: str | None = None,
        device: str = "cpu",
        threads: int | None = None,
        batching: Batching | None = None,
        metrics: Metrics | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        self.bundle: Bundle = open_bundle(bundle, KIND)
        self.session: Session = open_session(
            self.bundle, backend, device=device, threads=threads, vocabulary=vocabulary
        )
        self.vocabulary = vocabulary or self.bundle.vocabulary()
        self.name = name or self.bundle.recipe.name
        self.image = self.session.inputs[0]
        if len(self.session.inputs) != 1 or len(self.image.shape) != 4:
            raise CloudsError(f"{bundle} takes more than an image", "export it again with this version")
        chosen = batching or Batching()
        counted = metrics or Metrics()
        fixed = self.image.shape[0]
        self.statistics = Statistics()
        count = counted.observer(ENGINE)

        def observe(items: int, seconds: float) -> None:
            count(items, seconds)
            self.statistics.call(items, seconds)

        self.most = chosen.waiting
        largest = chosen.largest if fixed is None else min(chosen.largest, fixed)
        self.queue: Batcher[Array, Row] = Batcher(
            self._run,
            ENGINE,
            largest=largest,
            delay=chosen.delay,
            waiting=chosen.waiting * largest,
            observe=observe,
        )
        counted.watch_queue(ENGINE, self.queue.__len__)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the graph gives; the first are the labels."""
        return self.session.outputs

    def classes(self) -> list[dict[str, Any]]:
        """The classes: `id`, `name`, `color` as RGB."""
        facts = self.bundle.facts
        names = list(self.vocabulary.names if self.vocabulary else facts["classes"])
        colors = [list(color) for color in facts["palette"]]
        if names != list(facts["classes"]) or len(colors) != len(names):
            colors = [list(one.color) for one in named_set("vocabulary", names).classes]
        return [
            {"id": i, "name": name, "color": color}
            for i, (name, color) in enumerate(zip(names, colors, strict=True))
        ]

    def submit(self, images: Sequence[Array]) -> list[Future[Done[Row]]]:
        """Queues images of the graph's size.

        Args:
            images: (H, W, 3) uint8 each.

        Returns:
            For each a future of its outputs by name, without the batch axis.

        Raises:
            Refusal: See `Batcher.submit`.
        """
        return self.queue.submit(images)

    async def answer(self, images: Sequence[Array], wanted: Collection[str] | None = None) -> list[Done[Row]]:
        """Labels the images of one request, a few at a time, so that others pass.

        Args:
            images: See `submit`.
            wanted: Names of outputs; only these are kept. None keeps all.

        Raises:
            Refusal: 413, there are too many; see also `submit`.
        """
        if len(images) > self.most:
            raise Refusal(
                413, f"{len(images)} images in one request, {self.most} at most", "send fewer at once"
            )
        start = time.perf_counter()
        done: list[Done[Row]] = []
        try:
            while len(done) < len(images):  # a whole call's worth where nobody waits, else one in turn
                step = 1 if len(self.queue) else self.queue.largest
                part = self.submit(images[len(done) : len(done) + step])
                for one in await asyncio.gather(*map(asyncio.wrap_future, part)):
                    kept = {k: v for k, v in one.result.items() if wanted is None or k in wanted}
                    done.append(replace(one, result=kept))
        except Exception:
            self.statistics.failed.add(time.perf_counter() - start)
            raise
        self.statistics.answered(done, time.perf_counter() - start)
        return done

    def warm_up(self) -> None:
        """Runs the smallest and the largest call once, so that no request waits for a first time."""
        gray = np.full((self.bundle.height, self.bundle.width, 3), 127, np.uint8)
        for count in sorted({1, self.queue.largest}):
            self._run([gray] * count)

    def close(self) -> None:
        """Finishes the queue, then closes the session."""
        self.queue.close()
        self.session.close()

    def _run(self, images: list[Array]) -> list[Row]:
        batch = np.stack(images)
        missing = (self.image.shape[0] or len(batch)) - len(batch)
        if missing > 0:  # a graph of a fixed batch: repeat the last image, drop its answers
            batch = np.concatenate([batch, np.repeat(batch[-1:], missing, 0)])
        outputs = self.session.run({self.image.name: batch})
        return [{name: array[i] for name, array in outputs.items()} for i in range(len(images))]
