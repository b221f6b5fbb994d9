"""Folders on this machine or remote (`s3://`, `gs://`, `memory://`, ...), through fsspec."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import atomic_path, sha256
from clouds_deploy.bounded import load_json
from clouds_deploy.data.images import walk
from clouds_deploy.errors import CloudsError, first_line, install, printable

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::[^/]*)?://")
_FLAT = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl"})


def is_url(text: str | Path) -> bool:
    """Whether a path is a remote address for fsspec rather than a path of this machine."""
    return _ADDRESS.match(str(text)) is not None


class Place:
    """A folder, or a file in it, wherever it is.

    Reading and writing is of whole files. Here a file appears by one rename; in an object store it does so
    by itself. Elsewhere (SFTP and the like) half of a file may be seen while it is written: what is done is
    what a record says, which is written afterwards.

    Args:
        address: A path, or an address that fsspec understands.

    Raises:
        CloudsError: There is no such kind of address, or its package is missing.
    """

    def __init__(self, address: str | Path) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem, make_path_posix

        self.address = str(address).rstrip("/") or "/"
        try:
            if is_url(self.address):
                fs, root = url_to_fs(self.address)
            else:  # fsspec takes `a::b` and `10:30.mp4` for addresses
                fs, root = LocalFileSystem(), make_path_posix(self.address)
        except ImportError as error:
            raise CloudsError(f"{address} needs a package: {error}", install("cloud")) from error
        except ValueError as error:
            raise CloudsError(
                f"{address} cannot be read: {error}", "use a path, or s3://, gs://, memory://, file://"
            ) from error
        self.fs: Any = fs
        self.root = str(root)
        self.local = isinstance(fs, LocalFileSystem)

    def __str__(self) -> str:
        return self.address

    def holds(self, other: Place) -> bool:
        """Whether another folder is this one or inside it."""
        same = self.fs.protocol == other.fs.protocol
        return same and f"{other.root.rstrip('/')}/".startswith(f"{self.root.rstrip('/')}/")

    def path(self, name: str) -> Path:
        """Path of a file, for folders of this machine only."""
        return Path(self.root) / name

    def _at(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def told(self, name: str = "") -> str:
        """Address of a file, for messages."""
        return printable(f"{self.address}/{name}" if name else self.address)

    @contextmanager
    def _asked(self, name: str) -> Iterator[None]:
        """Turns whatever a file system raises into a `CloudsError`."""
        try:
            yield
        except CloudsError:
            raise
        except FileNotFoundError as error:
            raise CloudsError(f"there is no {self.told(name)}", "check the address") from error
        except Exception as error:  # each kind of store has errors of its own
            raise CloudsError(
                f"{self.told(name)} cannot be used: {first_line(error)}",
                "check address, credentials, network and space",
            ) from error

    def is_file(self, name: str = "") -> bool:
        """Whether there is such a file."""
        with self._asked(name):
            return bool(self.fs.isfile(self._at(name)))

    def files(self) -> list[str]:
        """Lists the files in the folder and its subfolders, sorted, without hidden ones.

        Links to folders of this machine are followed, but not back to a folder that holds the link.

        Raises:
            CloudsError: There is no such folder.
        """
        with self._asked(""):
            if not self.fs.isdir(self.root):
                hint = "check the path" if self.local else "check the address"
                raise CloudsError(f"there is no folder {self.address}", hint)
            if self.local:
                own = Path(self.root)
                return sorted(path.relative_to(own).as_posix() for path in walk(own))
            self.fs.invalidate_cache()
            found = [str(path) for path in self.fs.find(self.root)]
        root = self.root.rstrip("/") + "/"
        inside = [path.removeprefix(root) for path in found]
        return sorted(name for name in inside if not name.rpartition("/")[2].startswith("."))

    def identity(self, name: str) -> str:
        """A value that changes when the file does: its sha256, or what a remote store reports of it."""
        with self._asked(name):
            return sha256(self.path(name)) if self.local else str(self.fs.ukey(self._at(name)))

    def size(self, name: str) -> int:
        """Size of a file in bytes, -1 where there is none."""
        with self._asked(name):
            return int(self.fs.size(self._at(name))) if self.fs.isfile(self._at(name)) else -1

    def fetch(self, name: str, to: Path) -> None:
        """Copies a file onto this machine."""
        to.parent.mkdir(parents=True, exist_ok=True)
        with self._asked(name):
            if self.local:
                shutil.copyfile(self.path(name), to)
            else:
                self.fs.get_file(self._at(name), str(to))

    def _make_folder(self, name: str) -> None:
        """Makes the folder of a file, but not in object stores, where this would make a bucket."""
        protocol = self.fs.protocol
        if not _FLAT.intersection([protocol] if isinstance(protocol, str) else protocol):
            self.fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)

    def put(self, file: Path, name: str) -> None:
        """Copies a file of this machine into the folder, replacing what is there."""
        if self.local:
            with atomic_path(self.path(name)) as temporary:
                shutil.copyfile(file, temporary)
            return
        with self._asked(name):
            self._make_folder(name)
            self.fs.put_file(str(file), self._at(name))

    def remove(self, name: str) -> None:
        """Deletes a file, if it is there."""
        with self._asked(name):
            if self.fs.isfile(self._at(name)):
                self.fs.rm_file(self._at(name))

    def read_bytes(self, name: str) -> bytes:
        """Reads a file."""
        with self._asked(name):
            return bytes(self.fs.cat_file(self._at(name)))

    def read_json(self, name: str) -> Any:
        """Reads a JSON file."""
        try:
            return load_json(self.read_bytes(name))
        except ValueError as error:
            raise CloudsError(f"{self.told(name)} is not valid JSON: {error}", "make it again") from error

    def write_json(self, name: str, value: Any) -> bytes:
        """Writes a JSON file and returns its bytes."""
        data = (json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode()
        if self.local:
            with atomic_path(self.path(name)) as temporary:
                temporary.write_bytes(data)
            return data
        with self._asked(name):
            self._make_folder(name)
            self.fs.pipe_file(self._at(name), data)
        return data
