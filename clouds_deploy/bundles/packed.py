"""A bundle as one file: an uncompressed zip of its directory, `.clouds`, which every verb accepts.

The file is unpacked into the cache under the sha256 of its bytes, once; from there on it is a directory like
any other, whose manifest is checked when it is opened.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clouds_deploy.artifacts import (
    MANIFEST,
    atomic_directory,
    atomic_path,
    cache_folder,
    kind_of,
    read_manifest,
    sha256,
)
from clouds_deploy.artifacts.claims import remove, temporary_path
from clouds_deploy.artifacts.names import is_regular
from clouds_deploy.artifacts.zips import checked_zip
from clouds_deploy.errors import CloudsError

SUFFIX = ".clouds"
_FILES = 4096
"""Most entries of a packed bundle."""


def pack(directory: Path, file: Path) -> None:
    """Writes a bundle's directory as one file, atomically; the same files give the same bytes.

    Args:
        directory: A finished bundle; not changed.
        file: The file; one that is there is replaced.

    Raises:
        CloudsError: It cannot be written.
    """
    with atomic_path(file) as made:
        _write(directory, made)


def _write(directory: Path, made: Path) -> None:
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(directory.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.relative_to(directory).as_posix())  # dated 1980, always
                with path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target, 1 << 20)


@contextmanager
def packing(out: Path) -> Iterator[Path]:
    """Directory to fill with a bundle, which then appears whole, as it is or packed into one file.

    Args:
        out: The bundle's directory, or its file. It is claimed before the work begins, and filled or written
            when that is done; on an exception nothing is left.

    Raises:
        CloudsError: Something is there already, or another process is making it; it cannot be written.
    """
    if out.suffix != SUFFIX:
        with atomic_directory(out) as directory:
            yield directory
        return
    with atomic_path(out, replace=False) as made:
        directory = made.with_name(temporary_path(out).name)
        try:
            directory.mkdir()
            yield directory
            _write(directory, made)
        finally:
            remove(directory)


def unpacked(path: Path) -> Path:
    """The directory of a bundle that may be one file; any other path is returned as it is.

    Raises:
        CloudsError: The file is no bundle, or was changed.
    """
    if path.suffix != SUFFIX or path.is_dir():
        return path
    if not is_regular(path):
        raise CloudsError(f"there is no file {path}", "pass what `clouds-deploy export` wrote")
    entry = cache_folder("bundles") / sha256(path)[:32]
    if (entry / MANIFEST).is_file():
        return entry
    try:
        opened = checked_zip(path, entries=_FILES, total=path.stat().st_size)
        with opened as archive, atomic_directory(entry, shared=MANIFEST) as folder:
            for info in archive.infolist():
                if info.is_dir():
                    continue
                target = folder / info.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(info) as source, target.open("xb") as made:
                    shutil.copyfileobj(source, made, 1 << 20)
            _check_whole(folder, path)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise CloudsError(
            f"{path} is no bundle, or was changed: {error}", "copy it again, or export it again"
        ) from error
    return entry


def _check_whole(folder: Path, path: Path) -> None:
    """Checks what was unpacked against its manifest, so that nothing else stays in the cache.

    Raises:
        CloudsError: It does not hold.
        BadZipFile: There is no manifest.
    """
    if not is_regular(folder / MANIFEST):
        raise zipfile.BadZipFile(f"it holds no {MANIFEST}")
    try:
        read_manifest(folder, kind_of(folder) or "bundle")
    except CloudsError as error:
        message = error.message.replace(str(folder), str(path))
        raise CloudsError(message, error.hint, exit_code=error.exit_code) from error
