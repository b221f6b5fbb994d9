"""Runs a job: does what is not done yet, image by image or unit by unit, and keeps the ledger."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.console import progress
from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.results import Done, Failed, Record, Results, Work
from clouds_deploy.jobs.storage import Place

I = TypeVar("I")  # noqa: E741
P = TypeVar("P")
A = TypeVar("A")
Runner = Callable[[Work, Sequence[Any], Results], Iterator["Record | Failed | str"]]
"""Does units, in any order, and yields the record or the fault of each; a string is a note for the
watcher."""
THREADS = 2
"""Threads that read and write beside the model."""


@dataclass
class Report:
    """Outcome of a job.

    Attributes:
        records: The ledger's records of all units, in their order.
        new: The records that this run added.
        failed: `path`, `fault` and `fix` of everything that could not be processed, by path.
        seconds: How long this run's part took.
    """

    records: list[Record] = field(default_factory=list)
    new: list[Record] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def items(self) -> list[Record]:
        """The images that are done, each with its facts."""
        return _images(self.records)

    @property
    def new_items(self) -> list[Record]:
        """Those of them that this run did."""
        return _images(self.new)

    def total(self, fact: str) -> int:
        """Sum of a fact over all images that have it."""
        return sum(item.get(fact, 0) for item in self.items)


def _images(records: Iterable[Record]) -> list[Record]:
    """The images in records, which are of one image or of a unit of several."""
    return [item for record in records for item in record.get("items", (record,))]


def run_job(work: Work, units: Sequence[Any], results: Results, runner: Runner | None = None) -> Report:
    """Does all units that are not done yet.

    Args:
        work: What to do with each.
        units: All of them; single images where `results.shards` is None.
        results: Where the results go.
        runner: What executes the units; None is this process.

    Returns:
        What is done, by this run and earlier ones.

    Raises:
        CloudsError: The output folder is of something else or of other inputs, another process is writing
            into it, two units made the same file, or nothing could be processed (exit code 1).
    """
    single = results.shards is None
    results.enter(work)
    report = Report()
    with results.open_ledger() as ledger:
        ledger.check_names(units)
        found = {unit.name: ledger.done(work, unit) for unit in units}
        todo = [unit for unit in units if found[unit.name] is None]
        run = run_together if single else runner or run_here
        sizes = {unit.name: unit.size for unit in units}
        total, start = sum(sizes.values()), time.perf_counter()
        count = total - sum(unit.size for unit in todo)
        with progress(work.verb, total, "image" if single or total > len(units) else "unit") as advance:
            for outcome in run(work, todo, results):
                if isinstance(outcome, str):
                    advance(count, outcome)
                    continue
                if isinstance(outcome, Failed):
                    report.failed.append(outcome.entry())
                    count += 1
                else:
                    ledger.add(outcome)
                    found[outcome["name"]] = outcome
                    report.new.append(outcome)
                    count += sizes[outcome["name"]]
                advance(count)
        report.seconds = time.perf_counter() - start
    report.records = [record for unit in units if (record := found[unit.name]) is not None]
    report.failed += [entry for record in report.records for entry in record.get("failed", ())]
    report.failed.sort(key=lambda entry: entry["path"])
    if report.failed and not report.items:
        if single:
            results.leave()
        first = report.failed[0]
        raise CloudsError(
            f"none of {len(units)} {'files' if single else 'units'} could be processed; "
            f"first: {first['fault']}",
            first["fix"],
            exit_code=1,
        )
    _check_owners(report.records)
    return report


def _check_owners(records: Sequence[Record]) -> None:
    owner: dict[str, str] = {}
    for record in records:
        for name in record["outputs"]:
            if owner.setdefault(name, record["name"]) != record["name"]:
                raise CloudsError(
                    f"{name} was made by both `{owner[name]}` and `{record['name']}`",
                    "keys that come twice need shards: --shards, into another --out",
                )


def check_apart(out: Place, given: Iterable[Place]) -> None:
    """Refuses an output folder inside a folder that is read."""
    for place in given:
        if place.holds(out):
            raise CloudsError(f"--out {out} is inside {place}, which is read", "choose another --out")


def run_together(work: Work, items: Sequence[Any], results: Results) -> Iterator[Record | Failed | str]:
    """Does images of this machine in one go; what is made of them is written straight into the output
    folder.
    """
    for outcome in work.work(items, results.folder) if items else ():
        yield outcome.record(outputs=outcome.outputs) if isinstance(outcome, Done) else outcome


def run_here(work: Work, units: Sequence[Any], results: Results) -> Iterator[Record | Failed | str]:
    """Does units one after the other; the next one is fetched meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        waiting: deque[tuple[Any, Scratch, Future[Any]]] = deque()
        left = deque(units)

        def fetch() -> None:
            if left:
                unit, folder = left.popleft(), Scratch()
                waiting.append((unit, folder, pool.submit(_stage, work, unit, results, folder.path)))

        fetch()
        try:
            while waiting:
                unit, folder, future = waiting[0]
                staged = future.result()
                fetch()
                yield _finish(work, unit, results, folder.path, staged)
                waiting.popleft()
                folder.close()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for _, folder, _ in waiting:
                folder.close()


def do_unit(work: Work, unit: Any, results: Results) -> Record | Failed:
    """Does one unit from beginning to end."""
    with Scratch() as folder:
        return _finish(work, unit, results, folder, _stage(work, unit, results, folder))


Staged = tuple[dict[str, str], Sequence[Any]]
"""Identity of a unit's inputs, and its images."""


def _stage(work: Work, unit: Any, results: Results, folder: Path) -> Staged | Failed:
    try:
        inputs = work.identity(unit) if results.place is not None else {}
        return inputs, work.stage(unit, folder)
    except CloudsError as fault:
        return Failed(unit.told(), fault)


def _finish(
    work: Work, unit: Any, results: Results, folder: Path, staged: Staged | Failed
) -> Record | Failed:
    if isinstance(staged, Failed):
        return staged
    inputs, items = staged
    done, failed = [], []
    try:
        for outcome in work.work(items, folder / "out"):
            if isinstance(outcome, Done):
                done.append(outcome)
            elif isinstance(outcome, Failed):
                where = _renamed(outcome.path, unit, folder)
                failed.append(Failed(where, _renamed_fault(outcome.fault, unit, folder)))
    except CloudsError as fault:
        raise _renamed_fault(fault, unit, folder) from fault
    return results.publish(unit.name, inputs, done, failed, folder)


def _renamed(text: str, unit: Any, folder: Path) -> str:
    """A text that speaks of the shard, and not of where it was unpacked."""
    return text.replace(f"{folder}/images/", f"{unit.told()}/").replace(f"{folder}/", f"{unit.told()}/")


def _renamed_fault(fault: CloudsError, unit: Any, folder: Path) -> CloudsError:
    told = (_renamed(text, unit, folder) for text in (fault.message, fault.hint))
    return CloudsError(*told, exit_code=fault.exit_code)


def pipeline(
    items: Sequence[I],
    prepare: Callable[[I], P],
    compute: Callable[[list[P]], Sequence[A | Failed]],
    finish: Callable[[P, A], Done],
    *,
    batch: int = 1,
) -> Iterator[Done | Failed]:
    """Processes images while threads read the next ones and write the last ones, at most two batches each.

    Args:
        items: The images; `told()` of each names it in errors.
        prepare: Reads one, in a thread; a `CloudsError` passes over it.
        compute: Runs the model on up to `batch` prepared ones, in the caller's thread.
        finish: Writes the results of one, in a thread; an error ends the whole, but for a name that is too
            long.
        batch: Images that `compute` gets together.

    Yields:
        What became of each, in order, failures a little early.
    """

    def read(item: I) -> tuple[I, P] | Failed:
        try:
            return item, prepare(item)
        except CloudsError as fault:
            return Failed(item.told(), fault)  # type: ignore[attr-defined]

    def write(item: I, one: P, answer: A) -> Done | Failed:
        try:
            done = finish(one, answer)
        except CloudsError as fault:
            cause = fault.__cause__
            if isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG:  # its own fault alone
                return Failed(item.told(), fault)  # type: ignore[attr-defined]
            raise
        done.outputs  # noqa: B018 - hashed in this thread
        return done

    writing: deque[Future[Done | Failed]] = deque()
    with _pool() as pool:
        for group in _groups(_ahead(pool, read, items, 2 * batch), batch):
            yield from (one for one in group if isinstance(one, Failed))
            ready = [one for one in group if not isinstance(one, Failed)]
            answers = compute([one for _, one in ready]) if ready else ()
            for (item, one), answer in zip(ready, answers, strict=True):
                if isinstance(answer, Failed):
                    yield answer
                else:
                    writing.append(pool.submit(write, item, one, answer))
            while len(writing) > 2 * batch:
                yield writing.popleft().result()
        while writing:
            yield writing.popleft().result()


@contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads; what they have not begun when something fails is dropped."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="images")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, read: Callable[[I], P], items: Sequence[I], most: int) -> Iterator[P]:
    """Reads in the pool, in order, never more than `most` ahead."""
    waiting: deque[Future[P]] = deque()
    for item in items:
        waiting.append(pool.submit(read, item))
        if len(waiting) > most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _groups(stream: Iterable[P | Failed], batch: int) -> Iterator[list[P | Failed]]:
    """Cuts a stream so that every part but the last has `batch` readable images."""
    group: list[P | Failed] = []
    good = 0
    for one in stream:
        group.append(one)
        good += not isinstance(one, Failed)
        if good == batch:
            yield group
            group, good = [], 0
    if group:
        yield group
