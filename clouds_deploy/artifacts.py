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
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError

MANIFEST = "manifest.json"
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
        free = shutil.disk_usage(_existing(path)).free / 2**20
        return CloudsError(
            f"no space left while writing {path} ({free:.0f} MiB free)",
            "free some space or choose another place; what was complete before is untouched",
        )
    return CloudsError(
        f"cannot write {path}: {error.strerror or error}", "check the path and its permissions"
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Writes a file or directory under a temporary name, then renames it.

    Args:
        path: Its final place. A file there is replaced; a directory there must be gone by then.

    Yields:
        A path in the same folder to write to. On any exception it is removed, and `path` is unchanged.

    Raises:
        CloudsError: The disk is full or the place is not writable.
    """
    temporary = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    except BaseException as error:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


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


@contextmanager
def atomic_directory(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Creates a directory that appears whole or not at all.

    Args:
        path: Its final place.
        replace: Whether a directory of this project there may be replaced.

    Yields:
        An empty directory to fill.

    Raises:
        CloudsError: Something there may not be replaced; the disk is full.
    """
    occupied = path.exists() and (not path.is_dir() or any(path.iterdir()))
    if occupied and not (replace and (path / MANIFEST).is_file()):
        raise CloudsError(f"{path} exists already", "choose another --out, or delete it first")
    with atomic_path(path) as temporary:
        temporary.mkdir()
        yield temporary
        if path.exists():
            old = path.parent / f".{path.name}.tmp-{uuid.uuid4().hex[:8]}"
            os.replace(path, old)
            shutil.rmtree(old, ignore_errors=True)


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
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CloudsError(f"{path} is missing", "make the directory again, or copy it whole") from error
    except (OSError, ValueError) as error:
        raise CloudsError(f"{path} is not valid JSON: {error}", "make the directory again") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Reads a file of one JSON object a line, without incomplete lines; a missing file has none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
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
        if path.is_file() and name.as_posix() != MANIFEST and name.parts[0] not in ignore:
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
    """Kind of a directory according to its manifest, unchecked; None without a manifest."""
    manifest = directory / MANIFEST
    return read_json(manifest).get("kind") if manifest.is_file() else None


def read_manifest(directory: Path, kind: str, *, verify: bool = True) -> dict[str, Any]:
    """Reads the manifest of a directory that another stage made, and checks its files.

    Args:
        directory: The directory.
        kind: What it must be.
        verify: Whether to compare every file with its sha256; sizes always are.

    Raises:
        CloudsError: It is not there, unfinished, of another kind, or a file in it was changed or lost.
    """
    if not directory.is_dir():
        raise CloudsError(f"there is no directory {directory}", f"give the path of a {kind}")
    if not (directory / MANIFEST).is_file():
        raise CloudsError(
            f"{directory} has no {MANIFEST}: it is not a finished {kind}",
            "an interrupted training goes on with `--resume`" if kind == "run" else "make it again",
        )
    manifest = read_json(directory / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CloudsError(f"{directory / MANIFEST} is not of format {FORMAT}", "make it with this version")
    if manifest.get("kind") != kind:
        raise CloudsError(
            f"{directory} is a {manifest.get('kind')}, not a {kind}", f"give the path of a {kind}"
        )
    for name, entry in manifest["files"].items():
        path = directory / name
        if not path.is_file():
            raise CloudsError(f"{path} is missing from the {kind}", "copy the directory again, whole")
        same = path.stat().st_size == entry["bytes"] and (not verify or sha256(path) == entry["sha256"])
        if not same:
            raise CloudsError(
                f"{path} is not the file its manifest names (size or sha256 differ)",
                "copy the directory again, or make it again",
            )
    return manifest
