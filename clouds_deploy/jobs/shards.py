"""Tar shards as webdataset defines them: a sample's files share a name up to its first dot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from clouds_deploy.artifacts.names import escaped, shown
from clouds_deploy.data.images import IMAGE_SUFFIXES
from clouds_deploy.errors import CloudsError, first_line

_FAULTS = (tarfile.TarError, EOFError, OSError, ValueError, LookupError, ArithmeticError, RecursionError)
"""What `tarfile` raises for damaged archives."""
_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip"),
    (b"BZh", "bzip2", "bunzip2"),
    (b"\xfd7zXZ", "xz", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd"),
)


def split_member(member: str) -> tuple[str, str]:
    """Key of a member (its path up to the first dot of its name) and what follows, in lower case."""
    path = PurePosixPath(member)
    stem, _, kind = path.name.partition(".")
    return (path.parent / stem).as_posix(), kind.lower()


def is_image(member: str) -> bool:
    """Whether a member is a sample's image: `key.jpg`, but not `key.labels.png` or a hidden file."""
    key, kind = split_member(member)
    return f".{kind}" in IMAGE_SUFFIXES and bool(PurePosixPath(key).name)


def unpack(shard: Path, told: str, folder: Path, name: Callable[[str], str | None]) -> list[str]:
    """Writes some of a shard's files into a folder.

    Args:
        shard: The tar file.
        told: What to call it in errors.
        folder: Where to; nothing is ever written outside of it, whatever the members are called.
        name: Gives the path under which a member is written, or None for one that is passed over.

    Returns:
        The paths written, in the shard's order.

    Raises:
        CloudsError: It is no tar file, compressed, or damaged; a name leads out of the folder or comes twice;
            a member is sparse, so that a few bytes would stand for many; it cannot be written.
    """
    size = shard.stat().st_size if shard.is_file() else 0
    written: list[str] = []
    known: set[str] = set()
    try:
        with shard.open("rb") as bare, tarfile.open(fileobj=_Whole(bare, size), mode="r:") as tar:
            for member in tar:
                given = PurePosixPath(member.name)
                wanted = name(given.as_posix()) if member.isfile() else None
                if wanted is None:
                    continue
                named = f"{told} holds {shown(member.name)}"
                if given.is_absolute() or ".." in given.parts:
                    raise CloudsError(f"{named}, which leads out of it", "pack it again")
                if member.issparse():
                    raise CloudsError(f"{named} as a sparse file", "pack it again without")
                wanted = escaped(wanted)
                if wanted in known:
                    raise CloudsError(f"{named} twice", "give each sample its own key")
                file = tar.extractfile(member)
                if file is None or member.offset_data + member.size > size:
                    raise tarfile.ReadError("unexpected end of data")
                _write(file, folder / wanted, told)
                known.add(wanted)
                written.append(wanted)
    except _FAULTS as error:
        raise _damaged(shard, told, error) from error
    return written


class _Whole(io.RawIOBase):
    """A file of which no more is asked at once than it has: a header may say any number."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size = file, size

    def read(self, size: int = -1) -> bytes:
        """As of files."""
        left = max(0, self._size - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of files."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of files."""
        return self._file.tell()


def _write(file: IO[bytes], target: Path, told: str) -> None:
    """Writes a member; a full disk is not the shard's fault."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.open("xb")
    except OSError as error:
        raise CloudsError(
            f"{told}: {target} cannot be written: {error.strerror}",
            "give its samples other names",
        ) from error
    with made:
        while part := file.read(1 << 20):
            try:
                made.write(part)
                made.flush()
            except OSError as error:
                raise CloudsError(
                    f"{target} cannot be written: {error.strerror}", "free some space"
                ) from error


def _damaged(shard: Path, told: str, error: BaseException) -> CloudsError:
    try:
        with shard.open("rb") as file:
            start = file.read(6)
    except OSError:
        start = b""
    for mark, name, command in _COMPRESSED:
        if start.startswith(mark):
            return CloudsError(f"{told} is compressed by {name}", f"unpack it with `{command}` first")
    return CloudsError(f"{told} is a damaged shard: {first_line(error)}", "copy or pack it again")


def pack(shard: Path, members: Mapping[str, Path]) -> None:
    """Writes a shard; the same files give the same bytes.

    Args:
        shard: The tar file.
        members: Files by the names they get, in this order.
    """
    with tarfile.open(shard, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, path in members.items():
            data = path.read_bytes()
            about = tarfile.TarInfo(name)
            about.size, about.mode = len(data), 0o644
            try:
                about.tobuf(tarfile.USTAR_FORMAT)
                tar.format = tarfile.USTAR_FORMAT
            except ValueError:  # the name is too long for it
                tar.format = tarfile.PAX_FORMAT
            tar.addfile(about, io.BytesIO(data))
