"""Refining a folder: reading, SAM and writing at the same time, whatever is killed goes on."""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.backends.memory import kept_memory
from clouds_deploy.backends.options import Precision
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.console import progress
from clouds_deploy.data.images import write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.refinement.changes import add_changes, count_changes, summarize_changes
from clouds_deploy.refinement.ledger import Entry, Ledger, open_ledger
from clouds_deploy.refinement.pairs import Loaded, Pair, find_pairs, load_pair
from clouds_deploy.refinement.pictures import before_and_after
from clouds_deploy.refinement.prompts import Plan, Proposals
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.refinement.workplace import LEDGER, OVERLAYS, enter, finished, label_file, seal

THREADS = 2
"""Read, plan, merge and write beside the model."""
_GIVE_BACK_EVERY = 64
"""Images between two times that free memory goes back to the kernel: images of many sizes leave holes."""


@dataclass(frozen=True)
class _Ready:
    """An image that can go to SAM."""

    pair: Pair
    loaded: Loaded
    plan: Plan
    inputs: dict[str, str]


@dataclass(frozen=True)
class Bad:
    """An image that cannot."""

    pair: Pair
    fault: CloudsError


def refine_folder(
    refiner: Refiner,
    images: Path,
    labels: Path,
    out: Path,
    *,
    confidences: Path | None = None,
    batch: int = 8,
    overlays: int = 4,
) -> dict[str, Any]:
    """Refine the labels of a folder's images.

    Refined label maps are PNGs of train ids under `labels/`, called as `predict` calls them; 255 is a pixel
    without a label, which the manifest's `unlabelled` explains. A killed run goes on where it was when it is
    started again with the same settings; a run that is finished does nothing more. Images that cannot be
    read are passed over, listed, and tried again the next time. Threads read ahead and write behind, at most
    two batches each.

    Args:
        refiner: SAM and the settings.
        images: Folder of images.
        labels: Folder of label PNGs; see `pairs.find_pairs`.
        out: The folder to fill.
        confidences: Folder of confidences; see `pairs.find_pairs`.
        batch: Images that go to SAM together.
        overlays: Draw this many images before and after, spread over the folder, under `overlays/`.

    Returns:
        `out`, `images` done in all, `refined` by this run, `failed` (`path`, `fault` and `fix` each),
        `unlabelled_means`, `prompts`, `masks_taken`, `images_per_second` of this run (null if it did
        nothing), and what `changes.summarize_changes` gives.

    Raises:
        CloudsError: A folder is missing or of something else, the disk is full, or no image could be
            refined (exit code 1).
    """
    pairs = find_pairs(images, labels, confidences)
    given = [images, labels, *([confidences] if confidences else [])]
    enter(out, refiner.describe(), given)
    run = Pass(refiner, out, spread(pairs, overlays))
    failed: list[dict[str, str]] = []
    with (
        open_ledger(out / LEDGER) as ledger,
        progress("refine", len(pairs), "image") as advance,
        kept_memory() as give_back,
    ):
        done = finished(out, pairs)
        before = len(done)
        todo = [pair for pair in pairs if pair.name not in done]
        start = time.perf_counter()
        for number, outcome in enumerate(run(todo, batch, ledger), start=1 + before):
            if isinstance(outcome, Entry):
                done[outcome.name] = outcome
            else:
                told = outcome.fault
                failed.append({"path": str(outcome.pair.image), "fault": told.message, "fix": told.hint})
            advance(number)
            if number % _GIVE_BACK_EVERY == 0:
                give_back()
        seconds = time.perf_counter() - start
    if not done:
        first = failed[0]
        raise CloudsError(
            f"none of {len(pairs)} images could be refined; first: {first['fault']}",
            first["fix"],
            exit_code=1,
        )
    summary = {
        "unlabelled_means": "negative" if refiner.config.mode == "official" else "ignored",
        "prompts": sum(entry.prompted for entry in done.values()),
        "masks_taken": sum(entry.accepted for entry in done.values()),
        **summarize_changes(add_changes(entry.changes for entry in done.values())),
    }
    fixed = sorted(failed, key=lambda f: f["path"])
    seal(out, done, fixed, images=len(done), seed=refiner.config.seed, **refiner.describe(), **summary)
    refined = len(done) - before
    return {
        "out": str(out),
        "images": len(done),
        "refined": refined,
        "failed": fixed,
        **summary,
        "images_per_second": refined / seconds if refined else None,
    }


class Pass:
    """One pass over what is left to do."""

    def __init__(self, refiner: Refiner, out: Path, drawn: set[str]) -> None:
        self.refiner, self.out, self.drawn = refiner, out, drawn

    def __call__(self, todo: Sequence[Pair], batch: int, ledger: Ledger) -> Iterator[Entry | Bad]:
        """Refine; outcomes come in order, the bad ones a little early."""
        writing: deque[Future[Entry]] = deque()
        with _pool() as pool:
            ahead = _ahead(pool, self._prepare, todo, 2 * batch)
            for group in _groups(ahead, batch):
                yield from (one for one in group if isinstance(one, Bad))
                ready = [one for one in group if isinstance(one, _Ready)]
                if ready:
                    (self.out / MANIFEST).unlink(missing_ok=True)  # no seal while something is missing
                answers = self.refiner.propose([r.loaded.image for r in ready], [r.plan for r in ready])
                for one, answer in zip(ready, answers, strict=True):
                    writing.append(pool.submit(self._finish, one, answer, ledger))
                while len(writing) > 2 * batch:
                    yield writing.popleft().result()
            while writing:
                yield writing.popleft().result()

    def _prepare(self, pair: Pair) -> _Ready | Bad:
        try:
            loaded = load_pair(pair)
            plan = self.refiner.plan(loaded.labels, loaded.confidence, zlib.crc32(pair.name.encode()))
            return _Ready(pair, loaded, plan, pair.hashes())
        except CloudsError as fault:
            return Bad(pair, fault)

    def _finish(self, one: _Ready, answer: Proposals, ledger: Ledger) -> Entry:
        before = one.loaded.labels
        result = self.refiner.merge(before, one.plan, answer, one.loaded.confidence)
        file = label_file(self.out, one.pair.name)
        write_png(file, result.labels)
        if one.pair.name in self.drawn:
            picture = before_and_after(one.loaded.image, before, result.labels)
            write_png(self.out / OVERLAYS / f"{one.pair.name}.png", picture)
        changes = count_changes(before, result.labels)
        entry = Entry(one.pair.name, one.inputs, sha256(file), result.prompted, result.accepted, changes)
        ledger.add(entry)
        return entry


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Give threads; what they have not begun when something fails is dropped."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="refine")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, prepare: Any, todo: Sequence[Pair], most: int) -> Iterator[_Ready | Bad]:
    """Prepare images in the pool, in order, never more than `most` ahead."""
    waiting: deque[Future[_Ready | Bad]] = deque()
    for pair in todo:
        waiting.append(pool.submit(prepare, pair))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _groups(stream: Iterable[_Ready | Bad], batch: int) -> Iterator[list[_Ready | Bad]]:
    """Cut a stream so that every part but the last holds `batch` good images."""
    group: list[_Ready | Bad] = []
    good = 0
    for one in stream:
        group.append(one)
        good += isinstance(one, _Ready)
        if good == batch:
            yield group
            group, good = [], 0
    if group:
        yield group


def spread(pairs: Sequence[Pair], count: int) -> set[str]:
    """Choose `count` names, evenly spaced."""
    few = min(count, len(pairs))
    return {pairs[(2 * i + 1) * len(pairs) // (2 * few)].name for i in range(few)}


def refine(
    sam: str,
    *,
    images: str | Path,
    labels: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    weights: str | Path | None = None,
    mode: str = "robust",
    seed: int = 0,
    confidences: str | Path | None = None,
    batch: int = 8,
    overlays: int = 4,
    backend: str | None = None,
    precision: Precision = "f32",
    shards: bool | None = None,
    runner: str = "local",
) -> dict[str, Any]:
    """Mend pseudo-labels with a SAM; see `refinement.refine.refine_folder`, and `refine_units` for shards.

    Args:
        sam: A SAM's name, see `models.sam.build.load_sam`, or the folder of its bundle.
        images: Folder of images.
        labels: Their label PNGs.
        out: The folder to fill.
        overrides: `key=value` of `RefineConfig` each.
        weights: SAM's weight file, or `random`; None for those that the package has.
        mode: `robust` or `official`.
        seed: Of random points, and of random weights.
        confidences: Folder of the teacher's confidences.
        batch: Images that go to SAM together.
        overlays: Draw this many images before and after.
        backend: Bundles only: the runtime, ONNX Runtime by default.
        precision: `bf16` computes in bfloat16 (openvino).
        shards: Whether to write tar shards; None writes them where shards are read.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """
    from clouds_deploy.config.joint import RefineConfig
    from clouds_deploy.config.parse import settings
    from clouds_deploy.jobs.units import is_spread
    from clouds_deploy.refinement.build import SamRefiner

    config = settings(RefineConfig, (f"mode={mode}", f"seed={seed}", *overrides))
    make = SamRefiner(str(unpacked(Path(sam))), weights, config, backend, precision)
    given = [images, labels, *([confidences] if confidences else [])]
    if shards or runner != "local" or is_spread(given, out):
        from clouds_deploy.jobs.ray import load_runner
        from clouds_deploy.refinement.refine_units import RefineWork, refine_units

        work = RefineWork(make, labels, confidences=confidences, batch=batch, overlays=overlays)
        return refine_units(work, images, out, shards=shards, runner=load_runner(runner))
    folders = [Path(images), Path(labels), Path(out)]
    sure = Path(confidences) if confidences else None
    return refine_folder(make(), *folders, confidences=sure, batch=batch, overlays=overlays)
