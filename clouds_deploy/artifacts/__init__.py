"""Directories that appear whole or not at all: what stages exchange.

Every stage writes one directory with a `manifest.json` that names each of its files by size and sha256, what
it was made from, with which settings, versions, device and seed. A directory appears by one rename, so a
killed stage leaves no partial one; a stage that reads a directory checks the manifest first.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts.claims import (
    claimed,
    free_name,
    is_temporary,
    remove,
    remove_dead,
    temporary_path,
)
from clouds_deploy.artifacts.names import TAMPERED, fault, is_regular, shown
from clouds_deploy.errors import CloudsError, printable

MANIFEST = "manifest.json"
PROOFS = "proofs"
"""Folder of a bundle for what its self-tests on GPUs found."""
UNSEALED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("run", "sam", "lora"), ("checkpoints", "tensorboard")),
    **dict.fromkeys(("bundle", "sam_bundle"), (PROOFS,)),
}
"""Folders of a finished directory, by its kind, that are no part of it: a kill or a reader may leave them."""
FORMAT = 1
CACHE_VARIABLE = "CLOUDS_DEPLOY_CACHE"
_PACKAGES = (
    "clouds-deploy",
    "torch",
    "torchvision",
    "numpy",
    "timm",
    "open_clip_torch",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "openvino",
    "pillow",
)


def sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cache_folder(kind: str) -> Path:
    """Folder of cached files of a kind: in `CLOUDS_DEPLOY_CACHE`, or in the home directory."""
    home = os.environ.get(CACHE_VARIABLE)
    return (Path(home) if home else Path.home() / ".cache" / "clouds-deploy") / kind


def storage_error(path: Path, error: OSError) -> CloudsError:
    """Error message and hint for a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CloudsError(
            f"no space left while writing {path}{_free_space(path)}",
            "free some space or choose another place; what was complete before is untouched",
        )
    cause, hint = error.strerror or str(error), "check the path and its permissions"
    if error.errno == errno.ENAMETOOLONG:
        hint = "choose a shorter name"
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        files = [one for one in path.parents if os.path.isfile(one)]
        if files:
            cause, hint = f"{files[0]} is a file, not a folder", "choose another place"
    return CloudsError(f"cannot write {path}: {cause}", hint)


def _free_space(path: Path) -> str:
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
        return f" ({shutil.disk_usage(path).free / 2**20:.0f} MiB are free now)"
    except OSError:
        return ""


@contextmanager
def atomic_path(path: Path, *, replace: bool = True) -> Iterator[Path]:
    """Writes a file under a temporary name, then renames it.

    Args:
        path: Its final place; a link is followed.
        replace: Whether a file that is there is replaced. Otherwise the path is claimed for this process
            before the work begins, and what others put there meanwhile stays.

    Yields:
        A path in the same folder to write to. On any exception it is removed, and `path` is unchanged.

    Raises:
        CloudsError: The disk is full or the place is not writable; something is there that may not be
            replaced, or another process is making it.
    """
    path = _resolved(path)
    temporary = temporary_path(path)
    with _told(path), nullcontext() if replace else _new(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not replace:
                remove_dead(path.parent)
            yield temporary
            _flush(temporary)
            if replace:
                os.replace(temporary, path)
            else:
                _place(temporary, path)
            _sync(path.parent)
        except BaseException:
            remove(temporary)
            raise


@contextmanager
def atomic_directory(
    path: Path, *, replace: bool = False, kept: Collection[str] = (), shared: str = ""
) -> Iterator[Path]:
    """Creates a directory that appears whole or not at all, at a path that is claimed before the work begins.

    What others put there meanwhile stays as it is, and the result is kept beside it. An empty directory that
    is there already (a mount point, a link to one) is filled, its manifest last.

    Args:
        path: Its final place; a link is followed.
        replace: Whether a directory of this project is replaced, if its files are those of its manifest.
        kept: Folders of the replaced directory that its manifest need not list, because what is made takes
            them over.
        shared: For an entry of a cache, which several processes may make at once: name of a file that a whole
            entry has. The first one to finish wins. An entry without the file is replaced.

    Yields:
        An empty directory to fill.

    Raises:
        CloudsError: Something is there; another process is making it; the disk is full.
    """
    path = _resolved(path)
    with _told(path), nullcontext() if shared else _new(path, replace, kept=kept):
        replaced = _identity(path) if replace and (path / MANIFEST).is_file() else None
        inside = path.is_dir() and not shared and replaced is None
        temporary = temporary_path(path / path.name if inside else path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_dead(temporary.parent)
            temporary.mkdir()
            yield temporary
            _flush(temporary)
            if inside:
                _fill(temporary, path)
            elif shared:
                _share(temporary, path, shared)
            elif replaced is not None and replaced == _identity(path):
                _replace(temporary, path)
            else:
                _place(temporary, path)
            _sync(path if inside else path.parent)
        except BaseException:
            remove(temporary)
            raise


def check_new(path: Path, *, replace: bool = False, what: str = "") -> None:
    """Checks that an output can be made at a path, before any work is done for it; see `atomic_directory`.

    Args:
        path: Where.
        replace: See `atomic_directory`.
        what: For a message: what would be gone on with, if it were there.

    Raises:
        CloudsError: Something is there, another process is making it, or the place cannot be written.
    """
    path = _resolved(path)
    with _told(path), _new(path, replace, what):
        pass


def discard(path: Path) -> None:
    """Deletes a directory that this project made, so that a kill in between leaves none that looks whole.

    Raises:
        CloudsError: It cannot be written.
    """
    doomed = temporary_path(path)
    try:
        os.replace(path, doomed)
    except FileNotFoundError:
        return
    except OSError as error:
        raise storage_error(path, error) from error
    remove(doomed)


def _resolved(path: Path) -> Path:
    """A path that names its file or directory itself: not a link to it, not `.`."""
    return Path(os.path.realpath(path)) if os.path.islink(path) or path.name in ("", "..") else path


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what a file system raises into the one error users see."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


@contextmanager
def _new(path: Path, replace: bool = False, what: str = "", kept: Collection[str] = ()) -> Iterator[None]:
    """Claims a path at which nothing is, or an empty directory, or one that may be replaced."""
    _check_free(path, replace, what, kept)
    with claimed(path):
        _check_free(path, replace, what, kept)
        yield


def _check_free(path: Path, replace: bool, what: str, kept: Collection[str] = ()) -> None:
    if not os.path.lexists(path):
        return
    if replace and (path / MANIFEST).is_file():
        known = {MANIFEST, *read_json(path / MANIFEST).get("files", ())}
        files = (one for one in path.rglob("*") if one.is_file() and not is_temporary(one))
        names = (one.relative_to(path) for one in files)
        if foreign := sorted({one.as_posix() for one in names if one.parts[0] not in kept} - known):
            raise CloudsError(
                f"{path / foreign[0]} is no file of what is to be replaced",
                "move it, or choose another --out",
            )
        return
    if path.is_dir() and all(is_temporary(one) or one.name == "lost+found" for one in path.iterdir()):
        return
    told = f"{path} exists and is not {what}" if what else f"{path} exists already"
    raise CloudsError(told, "choose another --out")


def _place(temporary: Path, path: Path) -> None:
    """Gives a finished file or directory its name, unless something has it by now."""
    try:
        if temporary.is_dir():
            if not os.path.lexists(path):
                os.rename(temporary, path)
                return
        else:
            _link(temporary, path)
            return
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR):
            raise
    _keep(temporary, path, path)


def _link(temporary: Path, path: Path) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from None
        os.replace(temporary, path)
        return
    remove(temporary)


def _identity(path: Path) -> tuple[int, int]:
    """What tells a directory from another one that was put in its place."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _replace(temporary: Path, path: Path) -> None:
    old = temporary_path(path)
    os.rename(path, old)
    try:
        _place(temporary, path)
    except BaseException:
        if not os.path.lexists(path):
            os.rename(old, path)
        raise
    remove(old)


def _fill(temporary: Path, path: Path) -> None:
    """Moves a finished directory's files into the directory that holds it, the manifest last."""
    names = sorted((one.name for one in temporary.iterdir()), key=lambda name: (name == MANIFEST, name))
    if any(os.path.lexists(path / name) for name in names):
        _keep(temporary, path / path.name, path)
    moved: list[Path] = []
    try:
        for name in names:
            os.rename(temporary / name, path / name)
            moved.append(path / name)
        temporary.rmdir()
    except BaseException:
        for one in moved:
            remove(one)
        raise


def _share(temporary: Path, path: Path, mark: str) -> None:
    """Gives an entry of a cache its name, or drops it where another process was first."""
    for _ in range(2):
        try:
            os.rename(temporary, path)
            return
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        if (path / mark).is_file():  # asked after the rename: an entry that came meanwhile is whole
            break
        discard(path)
    remove(temporary)


def _keep(temporary: Path, wanted: Path, path: Path) -> None:
    """Keeps a finished result beside what appeared in its place, and says so."""
    kept = free_name(wanted)
    os.rename(temporary, kept)
    if kept == path:  # it is gone again
        return
    raise CloudsError(
        f"something appeared at {path} while it was being made; it is left as it is",
        f"the finished result is {kept}",
        exit_code=1,
    )


def _flush(path: Path) -> None:
    """Flushes a file or a directory's files to the disk, so that the rename comes after the bytes."""
    for target in path.rglob("*") if path.is_dir() else ():
        _sync(target)
    _sync(path)


def _sync(path: Path) -> None:
    """Flushes one file, or the names in one directory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file; raises `CloudsError` if it is missing or invalid."""
    try:
        if not is_regular(path) and os.path.exists(path):
            raise ValueError("it is no file")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CloudsError(f"{path} is missing", "make the directory again, or copy it whole") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CloudsError(f"{path} is not valid JSON: {error}", "make the directory again") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of one JSON object a line, without incomplete lines; a missing file has none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except (ValueError, RecursionError):
            continue
    return lines


def environment() -> dict[str, Any]:
    """Description of the machine, interpreter and package versions."""
    versions: dict[str, str] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "packages": versions,
    }


def processor_name() -> str:
    """Marketing name of the processor if the system knows it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def write_manifest(
    directory: Path, kind: str, *, ignore: Collection[str] = (), **facts: Any
) -> dict[str, Any]:
    """Writes the manifest of a directory: every file by size and sha256.

    Args:
        directory: A directory whose files are complete; an older manifest in it is replaced.
        kind: What it is: `run`, `bundle`, `bench`, ...
        ignore: Folders in it that are left out, because they are about to be removed or may change.
        facts: What else to record; `inputs` maps the names of inputs to their sha256.

    Returns:
        The manifest as written.
    """
    files = {}
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory)
        named = name.as_posix() != MANIFEST and name.parts[0] not in ignore and not is_temporary(path)
        if named and path.is_file():
            files[name.as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest = make_manifest(kind, files, facts)
    write_json(directory / MANIFEST, manifest)
    return manifest


def make_manifest(kind: str, files: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Content of a manifest; see `write_manifest`.

    Args:
        kind: What the directory is.
        files: Its files' `bytes` and `sha256`, by path.
        facts: What else to record.
    """
    return {
        "format": FORMAT,
        "kind": kind,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **facts,
        "environment": environment(),
        "files": dict(files),
    }


def kind_of(directory: Path) -> str | None:
    """Kind of a directory according to its manifest, unchecked; None without a manifest that names one."""
    from clouds_deploy.artifacts.documents import LARGEST, read_document

    manifest = directory / MANIFEST
    if not os.path.lexists(manifest):
        return None
    bounded = is_regular(manifest) and manifest.stat().st_size <= LARGEST
    found = read_document(manifest) if bounded else read_json(manifest)
    kind = found.get("kind") if isinstance(found, dict) else None
    return kind if isinstance(kind, str) else None


def read_manifest(directory: Path, kind: str, *, verify: bool = True) -> dict[str, Any]:
    """Reads the manifest of a directory that another stage made, and checks its files.

    The manifest is a seal: it names every file, and there is no other one, but in the folders `UNSEALED`.

    Args:
        directory: The directory.
        kind: What it must be.
        verify: Whether to compare every file with its sha256; sizes always are.

    Raises:
        CloudsError: It is not there, unfinished, of another kind; its manifest is garbled or names files
            outside; a file in it was changed, lost or added, or is a pipe, a device or a link that leads out.
    """
    from clouds_deploy.artifacts.documents import ManifestDocument, checked, read_document

    path = directory / MANIFEST
    if not directory.is_dir():
        raise CloudsError(f"there is no directory {directory}", f"give the path of a {kind}")
    if not os.path.lexists(path):
        raise CloudsError(
            f"{directory} has no {MANIFEST}: it is not a finished {kind}",
            "an interrupted training goes on with `--resume`" if kind == "run" else "make it again",
        )
    manifest = read_document(path)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest["format"] is True:
        raise CloudsError(f"{path} is not of format {FORMAT}", "make it with this version")
    if manifest.get("kind") != kind:
        told = shown(manifest.get("kind"))[1:-1]
        raise CloudsError(f"{directory} is a {told}, not a {kind}", f"give the path of a {kind}")
    hint = "copy the directory again, or make it again"
    files = checked(ManifestDocument, manifest, path, hint).files
    for name in files:
        if wrong := fault(name):
            raise CloudsError(
                f"{path} names a file outside of its directory: {shown(name)} {wrong}", TAMPERED
            )
    _check_nothing_else(directory, kind, files)
    top = os.path.realpath(directory)
    for name, entry in files.items():
        file = directory / name
        if not is_regular(file):
            raise CloudsError(f"{file} is missing from the {kind}", "copy the directory again, whole")
        if os.path.commonpath([top, os.path.realpath(file)]) != top:
            raise CloudsError(f"{file} is a link that leads out of its directory", TAMPERED)
        same = file.stat().st_size == entry.bytes and (not verify or sha256(file) == entry.sha256)
        if not same:
            raise CloudsError(f"{file} is not the file its manifest names (size or sha256 differ)", hint)
    return manifest


def _check_nothing_else(directory: Path, kind: str, files: Collection[str]) -> None:
    """Refuses what lies in a directory and is not in its manifest; links are not followed."""

    def told(error: OSError) -> None:
        raise CloudsError(f"{error.filename} cannot be read: {error.strerror}", "check its permissions")

    for folder, below, names in os.walk(directory, onerror=told):
        inside = Path(folder).relative_to(directory).as_posix()
        if inside == ".":
            below[:] = [one for one in below if one not in UNSEALED.get(kind, ())]
        links = [one for one in below if os.path.islink(os.path.join(folder, one))]
        for one in (*names, *links):
            name = one if inside == "." else f"{inside}/{one}"
            if name != MANIFEST and name not in files and not is_temporary(Path(one)):
                raise CloudsError(
                    f"{Path(folder, printable(one))} is not in the manifest of the {kind}",
                    "remove it, or copy the directory again",
                )
