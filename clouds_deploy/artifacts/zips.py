"""Zip archives from elsewhere, checked before anything is read: `.clouds`, `.npz` and PyTorch's files.

Two readers of one zip may see different files in it: names twice, sizes that differ between the two places
that state them, entries that lie over each other, a second directory. Here a zip has one reading or none.
"""

from __future__ import annotations

import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from clouds_deploy.artifacts.names import fault, is_regular, shown

_END, _END64, _LOCATOR, _LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x03\x04"
_DIRECTORY_ENTRY = 46 + 3 * 256
"""Bytes of a directory entry: its head, a name, and what else is said of it."""


class BadZip(zipfile.BadZipFile):
    """A zip that has no single meaning, or more in it than it may."""


@contextmanager
def checked_zip(
    path: Path, *, entries: int, total: int, deflated: bool = False, dressed: bool = True
) -> Iterator[zipfile.ZipFile]:
    """Opens a zip whose directory holds: unique names, sizes and places that agree, nothing over another.

    Args:
        path: The file.
        entries: The most that it may hold.
        total: The most bytes that they may have together, unpacked.
        deflated: Whether entries may be compressed. Otherwise they are stored.
        dressed: Whether names must be paths that can be written below a folder; see `names.fault`.

    Raises:
        BadZip: Something does not hold; the message goes on from "the zip".
    """
    if not is_regular(path):
        raise BadZip("it is no file")
    size = path.stat().st_size
    with path.open("rb") as file:
        count, start, length = _end(file, size)
        if count > entries:
            raise BadZip(f"it holds {count} entries, {entries} are the limit")
        if length > count * _DIRECTORY_ENTRY:
            raise BadZip("its directory is longer than its entries need")
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            if len(infos) != count or archive.start_dir != start:
                raise BadZip("its directory does not say how many entries it holds")
            _check(infos, total, deflated, dressed)
            _check_places(file, infos, start)
            yield archive


def _end(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Number of entries, begin and length of the directory, which ends where its end record begins."""
    if size < 22:
        raise BadZip("it is no zip")
    tail = _read(file, size - 22, 22)
    if tail[:4] != _END or tail[20:] != b"\0\0":
        raise BadZip("no directory ends it")
    disk, first, here, count, length, start = struct.unpack("<HHHHII", tail[4:20])
    end = size - 22
    locator = _read(file, end - 20, 20) if end >= 76 else b""
    if locator[:4] == _LOCATOR:
        end = int(struct.unpack("<Q", locator[8:16])[0])
        if end + 56 != size - 42:
            raise BadZip("its directory cannot be found")
        record = _read(file, end, 56)
        if record[:4] != _END64:
            raise BadZip("its directory cannot be found")
        disk, first, here, count, length, start = struct.unpack("<IIQQQQ", record[16:56])
    if disk or first or here != count or start + length != end:
        raise BadZip("its directory lies elsewhere than it says")
    return count, start, length


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    file.seek(at)
    return file.read(length)


def _check(infos: list[zipfile.ZipInfo], total: int, deflated: bool, dressed: bool) -> None:
    known: set[str] = set()
    folders: set[str] = set()
    left = total
    for info in infos:
        name = info.orig_filename
        if name != info.filename:
            raise BadZip(f"it holds {shown(name)}, which has a NUL in it")
        folder = name.endswith("/")  # `is_dir` fails for an empty name
        bare = name.removesuffix("/")
        if dressed and (wrong := fault(bare)):
            raise BadZip(f"it holds {shown(name)}, which {wrong}")
        if bare in known:
            raise BadZip(f"it holds {shown(name)} twice")
        known.add(bare)
        folders.update(bare[:at] for at in range(len(bare)) if bare[at] == "/")
        if info.flag_bits & 0x2041:
            raise BadZip(f"{shown(name)} in it is encrypted")
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise BadZip(f"it holds {shown(name)}, which is a link or a device")
        stored = info.compress_type == zipfile.ZIP_STORED
        if not stored and not (deflated and info.compress_type == zipfile.ZIP_DEFLATED):
            raise BadZip(f"{shown(name)} in it is compressed")
        if (stored and info.file_size != info.compress_size) or (folder and info.file_size):
            raise BadZip(f"{shown(name)} in it has two sizes")
        left -= info.file_size
        if left < 0:
            raise BadZip(f"what it holds has more than {total >> 20} MiB unpacked")
    for info in infos:
        if info.filename in folders:
            raise BadZip(f"it holds {shown(info.filename)} both as a file and as a folder")


def _check_places(file: BinaryIO, infos: list[zipfile.ZipInfo], start: int) -> None:
    """Checks that each entry lies where nothing else does, and is what the directory says."""
    free = 0
    for info in sorted(infos, key=lambda one: one.header_offset):
        at = info.header_offset
        head = _read(file, at, 30) if free <= at <= start - 30 else b""
        if head[:4] != _LOCAL:
            raise BadZip(f"{shown(info.filename)} in it lies where something else is")
        flags, method = struct.unpack("<HH", head[6:10])
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        name = _read(file, at + 30, name_length)
        if name.decode("utf-8" if flags & 0x800 else "cp437", "replace") != info.orig_filename:
            raise BadZip(f"{shown(info.filename)} in it has two names")
        if method != info.compress_type:
            raise BadZip(f"{shown(info.filename)} in it is packed in two ways")
        packed, unpacked = struct.unpack("<II", head[18:26])
        for said, known in ((packed, info.compress_size), (unpacked, info.file_size)):
            if said not in (known, 0xFFFFFFFF) and not (said == 0 and flags & 8):
                raise BadZip(f"{shown(info.filename)} in it has two sizes")
        free = at + 30 + name_length + extra_length + info.compress_size
    if free > start:
        raise BadZip("an entry reaches into its directory")


def stored_bytes(file: BinaryIO, info: zipfile.ZipInfo, most: int) -> bytes:
    """Bytes of a stored entry, without its checksum, which PyTorch may leave out.

    Args:
        file: The zip, opened for reading.
        info: The entry.
        most: The most bytes it may have.
    """
    if info.file_size > most:
        raise BadZip(f"{shown(info.filename)} in it has {info.file_size} bytes, {most} are the limit")
    lengths = struct.unpack("<HH", _read(file, info.header_offset + 26, 4))
    return _read(file, info.header_offset + 30 + sum(lengths), info.file_size)
