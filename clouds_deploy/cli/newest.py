"""What a command takes when nothing is named: the newest result of an earlier one, and a free folder.

Runs are looked for in `./runs`, bundles in `./bundles`; what was taken is printed. Only what is finished (it
has a manifest) counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError

RUNS, BUNDLES = Path("runs"), Path("bundles")
RUN, SAM_RUN, BUNDLE, SAM_BUNDLE = "run", "sam", "bundle", "sam_bundle"
"""Kinds of directories, as their manifests have them."""
PACKED = ".clouds"
RECIPE = "recipe.yaml"
"""In a run's folder from its first step on."""


def newest_run() -> Path:
    """Path of the newest finished run of a segmenter.

    Raises:
        CloudsError: There is none.
    """
    return _newest(RUNS, (RUN,), "run") or _missing("finished run", RUNS, "train", "RUN")


def newest_bundle(*, sam: bool = False) -> Path:
    """Path of the newest bundle.

    Args:
        sam: Whether the bundle of a SAM will do, too.

    Raises:
        CloudsError: There is none.
    """
    kinds = (BUNDLE, SAM_BUNDLE) if sam else (BUNDLE,)
    return _newest(BUNDLES, kinds, "bundle") or _missing("bundle", BUNDLES, "export", "BUNDLE")


def newest_model() -> Path:
    """Path of the newest bundle of a segmenter, or of the newest finished run where there is no bundle.

    Raises:
        CloudsError: There is neither.
    """
    found = _newest(BUNDLES, (BUNDLE,), "bundle") or _newest(RUNS, (RUN,), "run")
    return found or _missing("bundle and no finished run", f"{BUNDLES} or {RUNS}", "train", "RUN|BUNDLE")


def split_model(words: list[str]) -> tuple[Path, list[str]]:
    """Separates the model from what it is to label.

    Args:
        words: What was typed: a run or a bundle and then images, folders and so on, or only the latter.

    Returns:
        The model, the newest one where none was named, and the rest.

    Raises:
        CloudsError: A model was named and nothing else; or none was named and there is none.
    """
    first = Path(words[0])
    unknown = not (first.exists() or "://" in words[0] or first.suffix)
    if not is_model(first) and not (unknown and len(words) > 1):
        return newest_model(), words
    if len(words) == 1:
        raise CloudsError(
            f"{first} is a model, and no image is named", f"clouds-deploy predict {first} IMAGE_OR_FOLDER..."
        )
    return first, words[1:]


def is_model(path: Path) -> bool:
    """Whether a path is a run, finished or not, or a bundle."""
    facts = _facts(path)
    kind = facts.get("kind") if facts else None
    unfinished = kind is None and (path / RECIPE).is_file()
    return path.suffix == PACKED or kind in (RUN, SAM_RUN, BUNDLE, SAM_BUNDLE) or unfinished


def free_folder(parent: str | Path, name: str, *, resume: bool = False) -> Path:
    """A folder for a result: `parent/name`, or `name-2`, `name-3`, ... where that is taken; it is printed.

    Args:
        parent: The folder for results of this kind.
        name: What the result is to be called; characters that folders should not have are replaced.
        resume: Whether an unfinished result (a folder without a manifest) is taken, to go on with it.
    """
    from clouds_deploy.artifacts import MANIFEST

    clean = "".join(c if c.isalnum() or c in "-_.+" else "-" for c in name).strip(".-") or "result"
    for path in _numbered(Path(parent), clean):
        taken = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if not taken or (resume and path.is_dir() and not (path / MANIFEST).exists()):
            break
    say(f"  writing to {path} (--out names another place)")
    return path


def last_folder(parent: Path, name: str) -> Path:
    """The latest of `parent/name`, `parent/name-2`, ...: the run that `--resume` goes on with.

    Raises:
        CloudsError: There is none.
    """
    last = None
    for path in _numbered(parent, name):
        if not path.exists():
            break
        last = path
    if last is None:
        raise CloudsError(f"there is no run {parent / name} to resume", "name it: --out runs/NAME")
    say(f"  resuming {last}")
    return last


def _numbered(parent: Path, name: str) -> Iterator[Path]:
    yield parent / name
    number = 2
    while True:
        yield parent / f"{name}-{number}"
        number += 1


def _newest(folder: Path, kinds: tuple[str, ...], noun: str) -> Path | None:
    """Finds what is newest by its manifest's date, and prints it."""
    from clouds_deploy.artifacts import MANIFEST

    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        facts = _facts(path)
        if facts and facts.get("kind") in kinds:
            file = path / MANIFEST if path.is_dir() else path
            found.append((str(facts.get("made", "")), file.stat().st_mtime_ns, path))
    if not found:
        return None
    newest = max(found)[-1]
    say(f"  taking the newest {noun}, {newest}")
    return newest


def _facts(path: Path) -> dict[str, object] | None:
    """The manifest of a directory or of a packed bundle, unchecked; None where there is no readable one."""
    import zipfile

    from clouds_deploy.artifacts import MANIFEST
    from clouds_deploy.artifacts.documents import LARGEST, parse_document, read_document
    from clouds_deploy.artifacts.zips import checked_zip

    try:
        if path.suffix == PACKED and path.is_file():
            with checked_zip(path, entries=4096, total=path.stat().st_size) as archive:
                info = archive.getinfo(MANIFEST)
                data = archive.read(info) if info.file_size <= LARGEST else b""
                found = parse_document(data, path)
        else:
            found = read_document(path / MANIFEST)
    except (CloudsError, OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile):
        return None
    return found if isinstance(found, dict) else None


def _missing(what: str, where: str | Path, verb: str, argument: str) -> Path:
    raise CloudsError(
        f"there is no {what} under ./{where}",
        f"make one with `clouds-deploy {verb}`, or name one: {argument}",
    )
