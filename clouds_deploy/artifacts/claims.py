"""Who makes an output path: claims on paths, and what dead processes left of theirs.

A path that takes long to make is claimed before the work begins, by a hidden lock file that names the
process. The lock ends with the process, so that a claim of a dead one does not count. What is not finished
lies under a hidden name that tells which process makes it; when that process is dead, a later one removes it,
and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError

INSIDE = ".claim"
"""Name of the claim on a folder that was there before."""
_LONGEST = 180
"""Bytes of a name that its temporary names begin with: those may be longer by 70, and 255 is the limit."""
_TEMPORARY = re.compile(r"\..*\.tmp-(\d+)-(\d+)-([0-9a-f]{8})-[0-9a-f]{8}")


def temporary_path(path: Path) -> Path:
    """A hidden, unused name beside a path, which tells that this process makes it."""
    pid = os.getpid()
    own = f"{pid}-{_own_start(pid)}-{_host()}-{uuid.uuid4().hex[:8]}"
    return path.with_name(f".{_shortened(path.name)}.tmp-{own}")


def is_temporary(path: Path) -> bool:
    """Whether a path has a name that `temporary_path` gives, or is a claim."""
    return path.name == INSIDE or _TEMPORARY.fullmatch(path.name) is not None


def remove_dead(folder: Path) -> None:
    """Removes what processes of this machine that are dead left in a folder under temporary names."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _TEMPORARY.fullmatch(path.name)
            if match and match[3] == _host() and not _alive(int(match[1]), match[2]):
                remove(path)


class Scratch:
    """A folder of this process's own among the system's temporary files, gone when it is closed.

    Where the process is killed before that, the next one that makes such a folder removes it.

    Attributes:
        path: The folder.
    """

    def __init__(self) -> None:
        home = Path(tempfile.gettempdir())
        _clear(home)
        self.path = temporary_path(home / "clouds")
        self.path.mkdir(mode=0o700)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Removes the folder."""
        remove(self.path)


@cache
def _clear(folder: Path) -> None:
    """Removes what dead processes left, once a process: the system's folder may hold many files."""
    remove_dead(folder)


def remove(path: Path) -> None:
    """Removes a file or folder that this project made, as far as possible: no error hides an earlier one."""
    for _ in range(2):
        if not os.path.lexists(path):
            return
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with suppress(OSError):
                path.unlink()


def free_name(path: Path) -> Path:
    """The path, or the first of `NAME-2`, `NAME-3`, ... that nothing has."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Claims a path for this process: its folder is made, and is seen to be writable.

    Args:
        path: What is going to be made. The claim is a hidden file beside it, or in it, where it is a folder
            that is there already.

    Raises:
        CloudsError: Another process has claimed it; the message tells which, on which machine, since when.
        OSError: The place cannot be written.
    """
    inside = path.is_dir()
    lock = path / INSIDE if inside else path.with_name(f".{_shortened(path.name)}{INSIDE}")
    if not inside:
        path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        path.lstat()  # a name that is too long is refused here, before any work
    handle = _take(lock, path)
    try:
        os.ftruncate(handle, 0)
        _write_all(handle, json.dumps(_myself()).encode())
        yield
    finally:
        with suppress(OSError):
            os.ftruncate(handle, 0)
        remove(lock)
        os.close(handle)


def _take(lock: Path, path: Path) -> int:
    """Opens and locks the file of a claim; one that a dead process left is taken over."""
    import fcntl

    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            locked, works = True, True
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # by a living process, or by the children that a dead one left
                locked = False
            except OSError:  # a file system without locks: what the file says must do
                works = False
            holder = _holder(handle)
            if holder.get("id") == _host():
                free = not _alive(holder["pid"], holder["start"])
            else:
                free = locked and (works or not holder)
            if not free:
                raise _refusal(path, lock, holder)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(lock)):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder ended meanwhile, and the file with it


def _refusal(path: Path, lock: Path, holder: dict[str, Any]) -> CloudsError:
    who = "process {pid} on {host} since {since}".format(**holder) if holder else "another process"
    return CloudsError(
        f"{path} is being made by {who}",
        f"wait for it, or choose another --out; if that process is gone, delete {lock}",
    )


def _holder(handle: int) -> dict[str, Any]:
    """What a claim says of its holder; nothing, where that is not written (yet)."""
    try:
        found = json.loads(os.pread(handle, 4096, 0))
    except (OSError, ValueError):
        return {}
    keys = {"pid", "start", "id", "host", "since"}
    return found if isinstance(found, dict) and keys <= found.keys() else {}


def _myself() -> dict[str, Any]:
    pid = os.getpid()
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"pid": pid, "start": _own_start(pid), "id": _host(), "host": platform.node(), "since": since}


def _write_all(handle: int, data: bytes) -> None:
    while data:
        data = data[os.write(handle, data) :]


def _shortened(name: str) -> str:
    data = os.fsencode(name)
    if len(data) <= _LONGEST:
        return name
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{os.fsdecode(data[: _LONGEST - 9]).encode(errors='ignore').decode()}-{digest}"


@cache
def _host() -> str:
    """Short hash of the machine and of the space in which its process numbers hold (a container's)."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


@cache
def _own_start(pid: int) -> str:
    return _start(pid) or "0"


def _alive(pid: int, start: str) -> bool:
    return _start(pid) in (start, "0")


def _start(pid: int) -> str | None:
    """When a process began, in the system's ticks; `0` where it does not tell, None for no live process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
        state, start = fields.split()[0], fields.split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return None
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except OSError:
            return "0"
        return "0"
    return None if state in "ZX" else start
