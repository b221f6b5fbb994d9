"""Output folder of a job, local or remote, and the ledger of what is done in it.

The results of a unit are written first, then its record, which names its inputs and outputs with their
hashes. A unit without a record is done again and gives the same files. The manifest comes last.

A folder of this machine that is filled image by image has its records as lines of `ledger.jsonl`; one that is
filled by tar shards or blocks of images, perhaps by several machines or in an object store, has a file for
each record under `records/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256 as digest
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TextIO

from clouds_deploy.artifacts import MANIFEST, make_manifest, sha256, storage_error
from clouds_deploy.artifacts.claims import remove_dead
from clouds_deploy.bounded import load_json
from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.shards import pack
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import TAR

SETTINGS, RECORDS, LEDGER = "settings.json", "records", "ledger.jsonl"
MEMBERS: Mapping[str, str] = {
    "labels": "labels.png",
    "confidences": "confidence.png",
    "overlays": "overlay.png",
    "images": "png",
    "failed": "failed.json",
}
"""Suffix of a sample's files in a shard, by the folder that holds the same file where there are no shards."""

Record = dict[str, Any]
"""What the ledger holds of a unit: `name`, `inputs`, `outputs`, and facts of the verb."""


@dataclass
class Done:
    """One finished piece of work, mostly an image.

    Attributes:
        name: Name of its results; unique within a job.
        files: Files that were written, by their path in the output folder, such as `labels/a.png`.
        inputs: sha256 of each input, by what it is (`image`, `labels`, ...).
        facts: Whatever else its record holds.
    """

    name: str
    files: Mapping[str, Path] = field(default_factory=dict)
    inputs: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def outputs(self) -> dict[str, Any]:
        """Size and sha256 of each file."""
        return {name: measured(path) for name, path in sorted(self.files.items())}

    def record(self, **more: Any) -> Record:
        """What the ledger holds of it."""
        return {"name": self.name, "inputs": dict(self.inputs), **more, **self.facts}


@dataclass(frozen=True)
class Failed:
    """An image or a unit that could not be processed.

    Attributes:
        path: Where it is.
        fault: What is wrong.
    """

    path: str
    fault: CloudsError

    def entry(self) -> dict[str, str]:
        """What results and manifests list: `path`, `fault` and `fix`."""
        return {"path": self.path, "fault": self.fault.message, "fix": self.fault.hint}


class Named(Protocol):
    """A unit, or an image of one."""

    @property
    def name(self) -> str:
        """Name of its results; unique within a job."""
        ...

    @property
    def size(self) -> int:
        """Number of images, for the progress bar; 1 where it is unknown."""
        ...

    def told(self) -> str:
        """Its place, for messages."""
        ...


class Work(Protocol):
    """What a verb does with its inputs; an instance can be pickled and sent to another process."""

    kind: str
    """Kind of the folder that is made, as its manifest says."""
    verb: str
    """Name of the command."""

    @property
    def gpu(self) -> bool:
        """Whether it uses a GPU where there is one."""
        ...

    def settings(self) -> dict[str, Any]:
        """Everything that the results depend on, beside the inputs."""
        ...

    def identity(self, unit: Any) -> dict[str, str]:
        """A value for each input of a unit that changes when the input does."""
        ...

    def stage(self, unit: Any, folder: Path) -> Sequence[Named]:
        """Fetches a unit's inputs into a local folder and lists the images in it."""
        ...

    def work(self, items: Sequence[Any], out: Path) -> Iterator[Done | Failed | str]:
        """Processes images and writes their results below `out`; a string is a note for the progress bar."""
        ...


def measured(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, as manifests list them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


@dataclass(frozen=True)
class Results:
    """Where the results of a job go.

    Attributes:
        place: The output folder; None keeps the records in memory only.
        shards: Whether each unit becomes a tar shard rather than files in folders. None is for a folder of
            this machine whose units are single images: they are written straight into it, with a line in the
            ledger for each.
        ledger: Name of that ledger; processes that share a folder have one each.
    """

    place: Place | None
    shards: bool | None
    ledger: str = LEDGER

    @property
    def folder(self) -> Path:
        """The output folder's path on this machine."""
        assert self.place is not None
        return self.place.path("")

    def enter(self, work: Work) -> None:
        """Begins the output folder, or checks that the same job was begun in it.

        Raises:
            CloudsError: The folder is of something else, or was begun with other settings.
        """
        if self.place is None:
            return
        shape = {} if self.shards is None else {"shards": self.shards}
        wanted = {"kind": work.kind, **work.settings(), **shape}
        wanted = json.loads(json.dumps(wanted, default=str))
        occupied = not self.place.is_file(SETTINGS) and self._occupied()
        if self.place.is_file(SETTINGS):  # asked again: a process that shares the folder may have begun it
            other = list(_differences(self.place.read_json(SETTINGS), wanted))
            if other:
                raise CloudsError(
                    f"{self.place} was begun with other settings ({'; '.join(other)})",
                    "choose another --out, or give the settings it was begun with",
                )
        elif occupied:
            raise CloudsError(
                f"{self.place} exists already and is no {work.kind}",
                "choose another --out",
            )
        else:
            self.place.write_json(SETTINGS, wanted)

    def _occupied(self) -> bool:
        assert self.place is not None
        if self.place.local:
            path = self.folder
            return path.is_file() or (
                path.is_dir() and any(not p.name.startswith(".") for p in path.iterdir())
            )
        try:
            return bool(self.place.files())
        except CloudsError:
            return False

    @contextmanager
    def open_ledger(self) -> Iterator[Ledger]:
        """Opens the ledger, as the only writer where it is a file of this machine.

        Raises:
            CloudsError: Another process is writing into the folder, or the ledger is damaged.
        """
        if self.shards is not None or self.place is None:
            yield Ledger(self)
            return
        path = self.folder / self.ledger
        with _locked(path) as file:
            yield Ledger(self, file, read_ledger(path))

    def leave(self) -> None:
        """Removes a folder in which nothing was made."""
        ledger = self.folder / self.ledger
        if ledger.stat().st_size:
            return
        ledger.unlink()
        (self.folder / SETTINGS).unlink()
        for folder in sorted(self.folder.rglob("*/"), reverse=True):
            with suppress(OSError):
                folder.rmdir()
        with suppress(OSError):
            self.folder.rmdir()

    def publish(
        self,
        name: str,
        inputs: Mapping[str, str],
        done: Sequence[Done],
        failed: Sequence[Failed],
        scratch: Path,
    ) -> Record:
        """Copies what was made of a unit's images into the output folder.

        Args:
            name: The unit's name.
            inputs: `Work.identity` of it.
            done: What was made.
            failed: The images that could not be processed.
            scratch: A local folder.

        Returns:
            The unit's record, which is still to be written.
        """
        outputs: dict[str, Any] = {}
        if self.place is not None:
            files = {file: path for one in done for file, path in one.files.items()}
            if self.shards and files:
                packed = scratch / f"results{TAR}"
                pack(packed, dict(sorted(_members(files).items())))
                files = {f"{name}{TAR}": packed}
            for file, path in sorted(files.items()):
                self.place.put(path, file)
                outputs[file] = measured(path)
        items = [one.record() for one in done]
        record = {
            "name": name, "inputs": dict(inputs), "outputs": outputs, "items": items,
            "failed": [one.entry() for one in failed],
        }  # fmt: skip
        return json.loads(json.dumps(record))  # type: ignore[no-any-return]

    def seal(self, kind: str, records: Iterable[Record], more: Sequence[str] = (), /, **facts: Any) -> None:
        """Writes the manifest, unless there is one that says the same.

        Args:
            kind: Kind of the folder.
            records: The records of everything in it.
            more: Other files of the job.
            facts: What else the manifest says.
        """
        if self.place is None:
            return
        known = {
            file: entry
            for record in records
            for file, entry in record["outputs"].items()
            if "bytes" in entry  # lines of version 0.1 have sha256 only
        }
        if self.shards is None:
            for folder in (self.folder, *self.folder.rglob("*/")):
                remove_dead(folder)
            names = {name for name in self.place.files() if name != MANIFEST}
        else:
            names = {*known, SETTINGS, *more, *(_record_file(record["name"]) for record in records)}
        files = {name: known.get(name) or self._measured(name) for name in sorted(names)}
        facts = {"kind": kind, **json.loads(json.dumps(facts, default=str)), "files": files}
        if self.place.is_file(MANIFEST):
            found = self.place.read_json(MANIFEST)
            if all(found.get(key) == value for key, value in facts.items()):
                return
        del facts["kind"], facts["files"]
        self.place.write_json(MANIFEST, make_manifest(kind, files, facts))

    def _measured(self, name: str) -> dict[str, Any]:
        assert self.place is not None
        if self.place.local:
            return measured(self.place.path(name))
        data = self.place.read_bytes(name)
        return {"bytes": len(data), "sha256": digest(data).hexdigest()}

    def holds(self, record: Record) -> bool:
        """Whether all outputs of a record are still in place; elsewhere than here sizes are compared only."""
        assert self.place is not None
        for name, entry in record["outputs"].items():
            size = self.place.size(name)
            if size < 0 or size != entry.get("bytes", size):
                return False
            if self.place.local and sha256(self.place.path(name)) != entry["sha256"]:
                return False
        return True


class Ledger:
    """The records of a job; made by `Results.open_ledger`.

    Args:
        results: The output folder.
        file: Where lines are appended; None where each record is a file.
        lines: The records in it.
    """

    def __init__(
        self, results: Results, file: TextIO | None = None, lines: Mapping[str, Record] | None = None
    ) -> None:
        self.results, self._file, self._lines = results, file, dict(lines or {})

    def add(self, record: Record) -> None:
        """Writes a record. The seal of an earlier run goes, as the folder changes."""
        place = self.results.place
        if place is None:
            return
        place.remove(MANIFEST)
        if self._file is None:
            place.write_json(_record_file(record["name"]), record)
            return
        self._lines[record["name"]] = record
        try:
            self._file.write(json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise storage_error(self.results.folder / self.results.ledger, error) from error

    def check_names(self, units: Iterable[Named]) -> None:
        """Refuses a folder with results of images that are not among the inputs (any more)."""
        gone = sorted(set(self._lines) - {unit.name for unit in units})
        if gone:
            raise CloudsError(
                f"{self.results.place} has results of `{gone[0]}`, which is not among the images now",
                "choose another --out for other images",
            )

    def done(self, work: Work, unit: Named) -> Record | None:
        """The record of a unit whose results are in place.

        Raises:
            CloudsError: It was made of other inputs than there are now.
        """
        record = self._find(unit.name)
        if record is None:
            return None
        try:
            now = work.identity(unit)
        except OSError:
            now = {}
        before = record["inputs"]
        changed = sorted(key for key in {*now, *before} if now.get(key) != before.get(key))
        if changed and record.get("failed"):
            return None
        if changed:
            listed = f"the {' and the '.join(changed)} of `{unit.name}`"
            raise CloudsError(
                f"{self.results.place} was made of other inputs: "
                f"{unit.told() if self._file is None else listed} changed",
                "choose another --out for other inputs",
            )
        return record if self.results.holds(record) else None

    def _find(self, name: str) -> Record | None:
        if self._file is not None:
            return self._lines.get(name)
        place = self.results.place
        if place is None or not place.is_file(_record_file(name)):
            return None
        record: Record = place.read_json(_record_file(name))
        return record if "items" in record else None  # of an older version: the unit is done again


def read_ledger(path: Path) -> dict[str, Record]:
    """Reads the records in a ledger, by name; a last line that a kill cut off is left out.

    Raises:
        CloudsError: The file is not a ledger.
    """
    if not path.is_file():
        return {}
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records: dict[str, Record] = {}
    for number, line in enumerate(lines, start=1):
        try:
            record = load_json(line)
            if "output" in record:  # as `refine` wrote it until version 0.1
                record["outputs"] = {f"labels/{record['name']}.png": {"sha256": record.pop("output")}}
            records[record["name"]] = {"inputs": record["inputs"], "outputs": record["outputs"], **record}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CloudsError(f"{path}, line {number}, is not a record", "choose another --out") from error
    return records


@contextmanager
def _locked(path: Path) -> Iterator[TextIO]:
    """Opens a ledger for appending, exclusively; a cut-off last line is removed first."""
    import fcntl

    try:
        file = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CloudsError(
                f"another process is writing into {path.parent}", "wait for it, or choose another --out"
            ) from error
        head, newline, rest = path.read_bytes().rpartition(b"\n")
        if rest:
            file.truncate(len(head) + len(newline))
        yield file


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """The keys of two trees whose values differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for one in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(one), now.get(one), f"{key}.{one}" if key else str(one))
    elif before != now:
        yield f"{key} was {before}, now {now}"


def _record_file(name: str) -> str:
    return f"{RECORDS}/{name}.json"


def _members(files: Mapping[str, Path]) -> dict[str, Path]:
    """Files of a folder by the names they have in a shard."""
    found = {}
    for name, path in files.items():
        folder, _, inside = name.partition("/")
        key = inside.rpartition(".")[0]
        if "." in PurePosixPath(key).name:
            raise CloudsError(
                f"`{key}` cannot be in a shard: its name has a dot, and a shard's keys end at the first dot",
                "rename it, or write a folder: --no-shards",
            )
        found[f"{key}.{MEMBERS[folder]}"] = path
    return found
