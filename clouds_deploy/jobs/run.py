"""Work unit by unit: what is done stays done, whatever is killed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import MANIFEST
from clouds_deploy.console import progress
from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.results import Results, Work
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Unit


@dataclass(frozen=True)
class Failed:
    """A unit that could not be done at all.

    Attributes:
        path: Where it is.
        fault: What is wrong.
    """

    path: str
    fault: CloudsError


def rename_fault(fault: CloudsError, unit: Unit, folder: Path) -> CloudsError:
    """Let an error speak of the shard, and not of where it was unpacked."""
    said = (text.replace(f"{folder}/", f"{unit.told()}/") for text in (fault.message, fault.hint))
    return CloudsError(*said, exit_code=fault.exit_code)


def do_unit(work: Work, unit: Unit, results: Results) -> dict[str, Any] | Failed:
    """Do one unit from beginning to end."""
    with tempfile.TemporaryDirectory(prefix="clouds-") as folder:
        staged = _stage(work, unit, Path(folder))
        return staged if isinstance(staged, Failed) else _finish(work, unit, results, Path(folder), staged)


def _stage(work: Work, unit: Unit, folder: Path) -> dict[str, str] | Failed:
    try:
        inputs = work.identity(unit)
        work.stage(unit, folder)
    except CloudsError as fault:
        return Failed(unit.told(), fault)
    return inputs


def _finish(
    work: Work, unit: Unit, results: Results, folder: Path, inputs: Mapping[str, str]
) -> dict[str, Any]:
    return results.publish(unit, inputs, work.work(unit, folder), folder)


Runner = Callable[[Work, Sequence[Unit], Results], Iterator["dict[str, Any] | Failed"]]
"""Does units, in any order, and gives what became of each."""


def run_here(work: Work, units: Sequence[Unit], results: Results) -> Iterator[dict[str, Any] | Failed]:
    """Do units one after the other; the next one is fetched meanwhile."""
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        waiting: list[tuple[Unit, tempfile.TemporaryDirectory[str], Future[Any]]] = []

        def fetch(unit: Unit) -> None:
            folder = tempfile.TemporaryDirectory(prefix="clouds-")
            waiting.append((unit, folder, pool.submit(_stage, work, unit, Path(folder.name))))

        left = list(units)
        try:
            if left:
                fetch(left.pop(0))
            while waiting:
                unit, folder, future = waiting[0]
                staged = future.result()
                if left:
                    fetch(left.pop(0))
                if isinstance(staged, Failed):
                    yield staged
                else:
                    yield _finish(work, unit, results, Path(folder.name), staged)
                waiting.pop(0)
                folder.cleanup()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
            for _, folder, _ in waiting:
                folder.cleanup()


def check_apart(out: Place, given: Iterable[Place]) -> None:
    """Refuse to write into a folder that is read."""
    for place in given:
        if place.holds(out):
            raise CloudsError(f"--out {out} is inside {place}, which is read", "choose another --out")


def run_units(
    work: Work, units: Sequence[Unit], results: Results, runner: Runner = run_here
) -> tuple[list[dict[str, Any]], list[dict[str, str]], int]:
    """Do all units that are not done yet.

    Args:
        work: What to do with each.
        units: All of them.
        results: Where the results go.
        runner: Who does it.

    Returns:
        The records in the units' order, `path`, `fault` and `fix` of all that failed, and how many units
        were done now.

    Raises:
        CloudsError: The results are of something else or of other inputs, two units made the same file, or
            no unit could be done (exit code 1).
    """
    results.enter(work.kind, work.settings())
    found = {unit.name: results.done(work, unit) for unit in units}
    todo = [unit for unit in units if found[unit.name] is None]
    if todo:
        results.place.remove(MANIFEST)  # no seal while something is missing
    failed: list[dict[str, str]] = []
    with progress(work.kind, len(units), "unit") as advance:
        for number, outcome in enumerate(runner(work, todo, results), start=1 + len(units) - len(todo)):
            if isinstance(outcome, Failed):
                failed.append(fault_entry(outcome.path, outcome.fault))
            else:
                found[outcome["unit"]] = outcome
            advance(number)
    records = [record for unit in units if (record := found[unit.name]) is not None]
    failed += [entry for record in records for entry in record["failed"]]
    if failed and not any(record["outputs"] or not record["failed"] for record in records):
        raise CloudsError(
            f"nothing of {len(units)} units could be done; first: {failed[0]['fault']}",
            failed[0]["fix"],
            exit_code=1,
        )
    owner: dict[str, str] = {}
    for record in records:
        for name in record["outputs"]:
            if owner.setdefault(name, record["unit"]) != record["unit"]:
                raise CloudsError(
                    f"{name} was made by both `{owner[name]}` and `{record['unit']}`",
                    "keys that come twice need shards: --shards, into another --out",
                )
    return records, sorted(failed, key=lambda entry: entry["path"]), len(todo)


def fault_entry(path: str, fault: CloudsError) -> dict[str, str]:
    """Write down what failed."""
    return {"path": path, "fault": fault.message, "fix": fault.hint}
