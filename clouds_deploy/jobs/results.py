"""A folder of results, here or far away, that is filled unit by unit.

A unit's results are written first, then its record, which names them by size and sha256. A unit without a
record is done again and becomes the same files. The manifest comes last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256 as digest
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from clouds_deploy.artifacts import MANIFEST, make_manifest, sha256
from clouds_deploy.errors import CloudsError
from clouds_deploy.jobs.shards import pack
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import TAR, Unit

SETTINGS, RECORDS = "settings.json", "records"
MEMBERS: Mapping[str, str] = {
    "labels": "labels.png",
    "confidences": "confidence.png",
    "overlays": "overlay.png",
    "images": "png",
    "failed": "failed.json",
}
"""What follows a sample's key in a shard, by the folder where the same file is without shards."""


@dataclass(frozen=True)
class Outcome:
    """What became of a unit.

    Attributes:
        files: What was made, by its path in a folder of results: `labels/a.png`.
        facts: What the unit's record says beside; `failed` lists the images that could not be read.
    """

    files: Mapping[str, Path]
    facts: Mapping[str, Any]


class Work(Protocol):
    """What is done with each unit; it can travel to another process."""

    kind: str

    @property
    def gpu(self) -> bool:
        """Whether it is computed on a GPU where there is one."""
        ...

    def settings(self) -> dict[str, Any]:
        """Say all that results depend on."""
        ...

    def identity(self, unit: Unit) -> dict[str, str]:
        """Give what changes when one of a unit's inputs does."""
        ...

    def stage(self, unit: Unit, folder: Path) -> None:
        """Bring a unit's inputs onto this machine."""
        ...

    def work(self, unit: Unit, folder: Path) -> Outcome:
        """Do what there is to do with a staged unit."""
        ...


@dataclass(frozen=True)
class Results:
    """Where results go.

    Attributes:
        place: The folder, here or elsewhere.
        shards: Whether a unit becomes a tar shard; otherwise its files go into folders.
    """

    place: Place
    shards: bool

    def enter(self, kind: str, settings: Mapping[str, Any]) -> None:
        """Begin the folder, or find that this very work was begun in it.

        Raises:
            CloudsError: It is of something else, or of other settings.
        """
        wanted = json.loads(json.dumps({"kind": kind, **settings, "shards": self.shards}, default=str))
        if self.place.is_file(SETTINGS):
            found = self.place.read_json(SETTINGS)
            other = sorted(k for k in {*found, *wanted} if found.get(k) != wanted.get(k))
            if other:
                raise CloudsError(
                    f"{self.place} was begun with other settings ({', '.join(other)})",
                    "go on with the same command, or choose another --out",
                )
            return
        if self._occupied():
            raise CloudsError(f"{self.place} exists already", "choose another --out, or delete it first")
        self.place.write_json(SETTINGS, wanted)

    def _occupied(self) -> bool:
        if self.place.local:
            path = self.place.path("")
            return path.is_file() or (
                path.is_dir() and any(not p.name.startswith(".") for p in path.iterdir())
            )
        try:
            return bool(self.place.files())
        except CloudsError:
            return False

    def done(self, work: Work, unit: Unit) -> dict[str, Any] | None:
        """Give a unit's record, if it is done: all its results are there, and its inputs are what they were.

        Raises:
            CloudsError: An input is another file now.
        """
        name = _record(unit)
        if not self.place.is_file(name):
            return None
        record: dict[str, Any] = self.place.read_json(name)
        if record["inputs"] != work.identity(unit):
            if record["failed"]:
                return None
            raise CloudsError(
                f"{self.place} was made of other inputs: {unit.told()} changed", "choose another --out"
            )
        for file, entry in record["outputs"].items():
            if self.place.size(file) != entry["bytes"]:
                return None
            if self.place.local and sha256(self.place.path(file)) != entry["sha256"]:
                return None
        return record

    def publish(
        self, unit: Unit, inputs: Mapping[str, str], outcome: Outcome, folder: Path
    ) -> dict[str, Any]:
        """Write a unit's results, then its record, and give the record."""
        files = dict(sorted(outcome.files.items()))
        if self.shards:
            packed = folder / f"results{TAR}"
            pack(packed, dict(sorted(_members(files).items())))
            files = {f"{unit.name}{TAR}": packed} if files else {}
        outputs = {}
        for name, path in files.items():
            self.place.put(path, name)
            outputs[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        record = {"unit": unit.name, "inputs": dict(inputs), "outputs": outputs, **outcome.facts}
        self.place.write_json(_record(unit), record)
        return json.loads(json.dumps(record))  # type: ignore[no-any-return]

    def seal(
        self, kind: str, records: Sequence[Mapping[str, Any]], more: Sequence[str] = (), /, **facts: Any
    ) -> None:
        """Write the manifest; it names `more` files beside the results and their records."""
        files = {name: entry for record in records for name, entry in record["outputs"].items()}
        for name in (SETTINGS, *more, *(f"{RECORDS}/{record['unit']}.json" for record in records)):
            data = self.place.read_bytes(name)
            files[name] = {"bytes": len(data), "sha256": digest(data).hexdigest()}
        self.place.write_json(MANIFEST, make_manifest(kind, dict(sorted(files.items())), facts))


def _record(unit: Unit) -> str:
    return f"{RECORDS}/{unit.name}.json"


def _members(files: Mapping[str, Path]) -> dict[str, Path]:
    """Give a folder's files the names they have in a shard."""
    found = {}
    for name, path in files.items():
        folder, _, inside = name.partition("/")
        key = inside.rpartition(".")[0]
        if "." in PurePosixPath(key).name:
            raise CloudsError(
                f"`{key}` cannot be in a shard: its name has a dot, where a shard's keys end",
                "rename it, or write a folder: --no-shards",
            )
        found[f"{key}.{MEMBERS[folder]}"] = path
    return found
