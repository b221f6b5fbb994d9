"""The folder that a refinement fills: what it was begun with, what is done, and the seal at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import MANIFEST, read_json, sha256, write_json, write_manifest
from clouds_deploy.errors import CloudsError
from clouds_deploy.refinement.ledger import Entry, read_ledger
from clouds_deploy.refinement.pairs import Pair

KIND = "refinement"
LABELS = "labels"
OVERLAYS = "overlays"
SETTINGS = "settings.json"
LEDGER = "ledger.jsonl"
_HALF = ".*.tmp-*"
"""What `atomic_path` calls a file that is not whole yet."""
ELSEWHERE = ("backend", "device")
"""What may differ between a run and its resumption: where SAM is computed."""


def label_file(out: Path, name: str) -> Path:
    """Say where an image's refined labels are."""
    return out / LABELS / f"{name}.png"


def enter(out: Path, facts: Mapping[str, Any], inputs: Sequence[Path]) -> None:
    """Begin a folder, or find that this very refinement was begun in it.

    Args:
        out: The folder.
        facts: `Refiner.describe()`.
        inputs: Folders that are read, which must not hold `out`.

    Raises:
        CloudsError: The folder is of something else, of other settings or another SAM.
    """
    for folder in inputs:
        if out.resolve().is_relative_to(folder.resolve()):
            raise CloudsError(f"--out {out} is inside {folder}, which is read", "choose another --out")
    settings = {"kind": KIND, **facts, "sam": {k: v for k, v in facts["sam"].items() if k not in ELSEWHERE}}
    begun = out / SETTINGS
    if begun.is_file():
        different = _differences(read_json(begun), settings)
        if different:
            raise CloudsError(
                f"{out} was begun with other settings: {'; '.join(different)}",
                "choose another --out, or give the settings it was begun with",
            )
    elif out.exists() and (not out.is_dir() or any(not p.match(_HALF) for p in out.iterdir())):
        raise CloudsError(f"{out} exists already and is no refinement", "choose another --out, or delete it")
    else:
        write_json(begun, settings)


def _differences(before: Any, now: Any, key: str = "") -> list[str]:
    """List the keys of two trees whose values differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = list(dict.fromkeys([*before, *now]))
        return [
            line
            for k in keys
            for line in _differences(before.get(k), now.get(k), f"{key}.{k}" if key else str(k))
        ]
    same = before == (list(now) if isinstance(now, tuple) else now)
    return [] if same else [f"{key} was {before}, now {now}"]


def finished(out: Path, pairs: Sequence[Pair]) -> dict[str, Entry]:
    """Say which images are done: their inputs are what they were, their labels are in place.

    What a killed run left half-written is removed, so only the process that has the ledger may ask.

    Args:
        out: The folder.
        pairs: The inputs, now.

    Returns:
        What the ledger says of them, by name. An image whose refined labels are lost or changed is not done.

    Raises:
        CloudsError: An image that is done has gone, or it or its labels are other files now.
    """
    for half in out.rglob(_HALF):
        half.unlink(missing_ok=True)
    entries = read_ledger(out / LEDGER)
    here = {pair.name: pair for pair in pairs}
    done = {}
    for name, entry in entries.items():
        pair = here.get(name)
        if pair is None:
            raise CloudsError(
                f"{out} holds labels of `{name}`, which is not among the images now",
                "choose another --out for other images",
            )
        try:
            now = pair.hashes()
        except OSError:
            now = {}
        changed = sorted(kind for kind in {*now, *entry.inputs} if now.get(kind) != entry.inputs.get(kind))
        if changed:
            raise CloudsError(
                f"{out} was made of other inputs: the {' and the '.join(changed)} of `{name}` changed",
                "choose another --out for other images or labels",
            )
        file = label_file(out, name)
        if file.is_file() and sha256(file) == entry.output:
            done[name] = entry
    return done


def seal(out: Path, entries: Mapping[str, Entry], failed: Sequence[Mapping[str, str]], **facts: Any) -> None:
    """Write the manifest; one that says the same stays."""
    inputs = {name: entries[name].inputs for name in sorted(entries)}
    told = {"inputs": inputs, "failed": list(failed), **facts}
    if (out / MANIFEST).is_file():
        manifest = read_json(out / MANIFEST)
        if all(manifest.get(key) == value for key, value in told.items()):
            return
    write_manifest(out, KIND, **told)
