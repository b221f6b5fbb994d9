"""What a refinement has done so far: one line a finished image, so that a killed run goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from clouds_deploy.artifacts import storage_error
from clouds_deploy.errors import CloudsError
from clouds_deploy.refinement.changes import Counts


@dataclass(frozen=True)
class Entry:
    """One finished image.

    Attributes:
        name: See `Pair.name`.
        inputs: sha256 of its image, labels and confidences.
        output: sha256 of the refined labels' file.
        prompted: Components that SAM was asked about.
        accepted: Components whose mask was taken.
        changes: See `count_changes`.
    """

    name: str
    inputs: dict[str, str]
    output: str
    prompted: int
    accepted: int
    changes: Counts

    def to_line(self) -> str:
        """Write it as one line of JSON."""
        fields = {**vars(self), "changes": self.changes.tolist()}
        return json.dumps(fields, separators=(",", ":")) + "\n"


def parse_entry(fields: dict[str, Any]) -> Entry:
    """Read an entry back from what `Entry.to_line` wrote, parsed."""
    return Entry(**{**fields, "changes": np.array(fields["changes"], np.int64).reshape(-1, 3)})


class Ledger:
    """An append-only file of finished images.

    A line is written after its image's labels are in place, so a killed run loses at most the notice of an
    image that is done, which is then done once more and becomes the same file.

    Args:
        file: Open for appending.
    """

    def __init__(self, file: TextIO) -> None:
        self._file, self._lock = file, threading.Lock()

    def add(self, entry: Entry) -> None:
        """Append; from any thread."""
        with self._lock:
            self._file.write(entry.to_line())
            self._file.flush()


def read_ledger(path: Path) -> dict[str, Entry]:
    """Read what is done, by name; a line that a kill cut off doesn't count.

    Raises:
        CloudsError: The file is not a ledger.
    """
    if not path.is_file():
        return {}
    *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    entries: dict[str, Entry] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = parse_entry(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise CloudsError(
                f"{path}, line {number}, is not what refinement wrote", "choose another --out"
            ) from error
        entries[entry.name] = entry
    return entries


@contextmanager
def open_ledger(path: Path) -> Iterator[Ledger]:
    """Open a ledger for appending, alone.

    A cut-off last line is taken away first.

    Raises:
        CloudsError: Another process is at work there, or the disk cannot be written.
    """
    import fcntl

    try:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise CloudsError(
                    f"another process is refining into {path.parent}", "wait for it, or choose another --out"
                ) from error
            whole = path.read_bytes().rpartition(b"\n")
            if whole[2]:
                file.truncate(len(whole[0]) + len(whole[1]))
            yield Ledger(file)
    except OSError as error:
        raise storage_error(path, error) from error
