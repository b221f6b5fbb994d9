"""A bundle with other engines than it was exported with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from clouds_deploy.artifacts import MANIFEST, PROOFS, atomic_directory, write_json, write_manifest
from clouds_deploy.bundles.bundle import FACTS, Bundle
from clouds_deploy.bundles.packed import SUFFIX, packing
from clouds_deploy.errors import CloudsError

_KEPT = ("format", "kind", "made", "environment", "files")


@contextmanager
def changed(bundle: Bundle, out: Path | None) -> Iterator[tuple[Path, list[dict[str, object]]]]:
    """A copy of a bundle whose engines may be changed; it takes the bundle's place, or another, once sealed.

    The old bundle is whole at any moment, and stays as it is on an exception.

    Args:
        bundle: What is changed.
        out: Where the new one goes, a folder or a `.clouds` file; None puts it in the old one's place.

    Yields:
        The copy's folder, and the entries of its engines, to be changed in place.

    Raises:
        CloudsError: The bundle is a `.clouds` file and there is no `out`; the place cannot be written.
    """
    if out is None and bundle.origin.suffix == SUFFIX and bundle.origin.is_file():
        raise CloudsError(
            f"{bundle.origin} is one file, which is not changed in place",
            "give --out NEW.clouds, or a folder",
        )
    place = atomic_directory(bundle.path, replace=True, kept=(PROOFS,)) if out is None else packing(out)
    with place as folder:
        _copy(bundle.path, folder)
        engines = [dict(entry) for entry in bundle.engines]
        yield folder, engines
        write_json(folder / FACTS, {**bundle.facts, "engines": engines})
        facts = {name: value for name, value in bundle.manifest.items() if name not in _KEPT}
        facts["built"] = [entry["file"] for entry in engines]
        write_manifest(folder, bundle.kind, ignore=(PROOFS,), **facts)


def _copy(source: Path, target: Path) -> None:
    """Brings a folder's files under the same names: the same bytes on the disk where it allows that."""
    for path in sorted(source.rglob("*")):
        to = target / path.relative_to(source)
        if path.is_dir():
            to.mkdir(exist_ok=True)
        elif path.name not in (MANIFEST, FACTS):
            try:
                os.link(path, to)
            except OSError:
                shutil.copyfile(path, to)
