"""Tar shards as webdataset defines them: a sample's files share a name up to its first dot."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from clouds_deploy.data.images import IMAGE_SUFFIXES
from clouds_deploy.errors import CloudsError


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
        CloudsError: It is no tar file, or damaged, or a name leads out of the folder or comes twice.
    """
    written: list[str] = []
    try:
        with tarfile.open(shard) as tar:
            for member in tar:
                given = PurePosixPath(member.name)
                wanted = name(given.as_posix()) if member.isfile() else None
                if wanted is None:
                    continue
                if given.is_absolute() or ".." in given.parts:
                    raise CloudsError(f"{told} holds {member.name}, which leads out of it", "pack it again")
                if wanted in written:
                    raise CloudsError(f"{told} holds {member.name} twice", "give each sample its own key")
                target = folder / wanted
                target.parent.mkdir(parents=True, exist_ok=True)
                file = tar.extractfile(member)
                data = file.read() if file else b""
                if len(data) != member.size:
                    raise tarfile.ReadError("unexpected end of data")
                target.write_bytes(data)
                written.append(wanted)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CloudsError(f"{told} is a damaged shard: {error}", "copy or pack it again") from error
    return written


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
            tar.addfile(about, io.BytesIO(data))
