"""A bundle as one file: an uncompressed zip of its directory, `.clouds`, which every verb accepts.

The file is unpacked into the cache under the sha256 of its bytes, once; from there on it is a directory like
any other, whose manifest is checked when it is opened.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from clouds_deploy.artifacts import MANIFEST, atomic_directory, atomic_path, cache_folder, sha256
from clouds_deploy.artifacts.claims import remove, temporary_path
from clouds_deploy.errors import CloudsError

SUFFIX = ".clouds"


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
    if not path.is_file():
        raise CloudsError(f"there is no file {path}", "pass what `clouds-deploy export` wrote")
    entry = cache_folder("bundles") / sha256(path)[:32]
    if (entry / MANIFEST).is_file():
        return entry
    try:
        with zipfile.ZipFile(path) as archive, atomic_directory(entry, shared=MANIFEST) as folder:
            for name in archive.namelist():
                parts = PurePosixPath(name)
                if parts.is_absolute() or ".." in parts.parts or "\\" in name:
                    raise zipfile.BadZipFile(f"it holds `{name}`, which is outside of it")
                archive.extract(name, folder)
            if not (folder / MANIFEST).is_file():
                raise zipfile.BadZipFile(f"it holds no {MANIFEST}")
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise CloudsError(
            f"{path} is no bundle, or was changed: {error}", "copy it again, or export it again"
        ) from error
    return entry
