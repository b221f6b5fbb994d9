"""`refine` unit by unit: from shards and addresses, into shards and addresses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from clouds_deploy.inference.predict import CONFIDENCES, LABELS, list_items
from clouds_deploy.jobs.results import MEMBERS, Outcome, Results
from clouds_deploy.jobs.run import Runner, check_apart, fault_entry, rename_fault, run_here, run_units
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Unit, find_units
from clouds_deploy.refinement.changes import add_changes, summarize_changes
from clouds_deploy.refinement.ledger import Entry, open_ledger, parse_entry
from clouds_deploy.refinement.maps import Maps
from clouds_deploy.refinement.pairs import ENDINGS, Pair
from clouds_deploy.refinement.refine import Pass, spread
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.refinement.workplace import ELSEWHERE, KIND, LEDGER

BLOCK = 256
"""Images of a folder that make a unit."""


class RefineWork:
    """Mends the labels of a unit's images.

    Args:
        make: Makes the refiner, in whatever process the work is done.
        labels: The label maps; see `Maps`.
        confidences: The confidences; None takes those that `predict` made with the labels, if it did.
        batch: Images that go to SAM together.
        overlays: Draw this many images of the first unit before and after.
    """

    kind = KIND
    gpu = True

    def __init__(
        self,
        make: Callable[[], Refiner],
        labels: str | Path,
        *,
        confidences: str | Path | None = None,
        batch: int = 8,
        overlays: int = 4,
    ) -> None:
        self.make, self.batch, self.overlays = make, batch, overlays
        self.labels = Maps(labels, LABELS, (MEMBERS[LABELS], "png"), ENDINGS)
        self.asked = confidences is not None
        kinds = (MEMBERS[CONFIDENCES], *(["png"] if self.asked else []))
        sure = Maps(confidences or labels, CONFIDENCES, kinds, (".png",))
        self.confidences = sure if self.asked or sure.shards or sure.prefix else None
        self.first = ""
        self._refiner: Refiner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_refiner": None}

    @property
    def refiner(self) -> Refiner:
        """Give SAM and the settings."""
        if self._refiner is None:
            self._refiner = self.make()
        return self._refiner

    def places(self) -> list[Place]:
        """Say what is read beside the images."""
        return [maps.given for maps in (self.labels, self.confidences) if maps is not None]

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        facts = self.refiner.describe()
        return {**facts, "sam": {k: v for k, v in facts["sam"].items() if k not in ELSEWHERE}}

    def identity(self, unit: Unit) -> dict[str, str]:
        """See `Work`."""
        names = [] if unit.shard else [str(PurePosixPath(file).with_suffix("")) for file in unit.files]
        found = {**unit.identity(), **self.labels.identity(unit, names)}
        if self.confidences is not None:
            found |= self.confidences.identity(unit, names)
        return found

    def stage(self, unit: Unit, folder: Path) -> None:
        """See `Work`."""
        unit.stage(folder / "images")
        names = [item.name for item in list_items([folder / "images"])]
        self.labels.stage(unit, names, folder / LABELS)
        if self.confidences is not None:
            self.confidences.stage(unit, names, folder / CONFIDENCES)

    def _pairs(self, folder: Path) -> list[Pair]:
        sure = folder / CONFIDENCES
        wanted = self.asked or (sure.is_dir() and any(sure.rglob("*.png")))
        return [
            Pair(
                item.name,
                item.path,
                path if (path := folder / LABELS / f"{item.name}.png").is_file() else None,
                sure / f"{item.name}.png" if wanted else None,
            )
            for item in list_items([folder / "images"])
        ]

    def work(self, unit: Unit, folder: Path) -> Outcome:
        """See `Work`."""
        pairs, out = self._pairs(folder), folder / "out"
        out.mkdir()
        drawn = spread(pairs, self.overlays) if unit.name == self.first else set()
        entries: list[str] = []
        failed: list[dict[str, str]] = []
        run = Pass(self.refiner, out, drawn)
        with open_ledger(out / LEDGER) as ledger:
            for outcome in run(pairs, self.batch, ledger):
                if isinstance(outcome, Entry):
                    entries.append(outcome.to_line())
                    continue
                fault = rename_fault(outcome.fault, unit, folder / "images")
                fault = rename_fault(fault, unit, folder)
                inside = outcome.pair.image.relative_to(folder / "images").as_posix()
                failed.append(fault_entry(f"{unit.told()}/{inside}", fault))
        files = {p.relative_to(out).as_posix(): p for p in out.rglob("*.png")}
        told = [json.loads(line) for line in sorted(entries)]
        return Outcome(files, {"entries": told, "failed": failed})


def refine_units(
    work: RefineWork,
    images: str | Path,
    out: str | Path,
    *,
    shards: bool | None = None,
    runner: Runner = run_here,
) -> dict[str, Any]:
    """Mend the labels of shards' or a folder's images, and go on where a killed run stopped.

    Each label map has the bytes that `refine_folder` writes; a shard holds them as `key.labels.png`.

    Args:
        work: SAM, the settings and the labels.
        images: Shards, or a folder of shards or of images.
        out: The folder to fill.
        shards: Whether to write shards; None writes them where shards are read.
        runner: Who does the units.

    Returns:
        As `refine_folder`, but for `refined` and `images_per_second`, in place of which `units_done` says
        how many units were done now.

    Raises:
        CloudsError: See `find_units`, `Maps` and `run_units`.
    """
    units = find_units([images], BLOCK)
    check_apart(Place(out), [Place(images), *work.places()])
    work.first = units[0].name
    results = Results(Place(out), units[0].shard if shards is None else shards)
    records, failed, now = run_units(work, units, results, runner)
    entries = [parse_entry(fields) for record in records for fields in record["entries"]]
    facts = work.refiner.describe()
    summary = {
        "unlabelled_means": "negative" if work.refiner.config.mode == "official" else "ignored",
        "prompts": sum(entry.prompted for entry in entries),
        "masks_taken": sum(entry.accepted for entry in entries),
        **summarize_changes(add_changes(entry.changes for entry in entries)),
    }
    told = {"inputs": {entry.name: entry.inputs for entry in entries}, "failed": failed}
    results.seal(
        KIND, records, **told, images=len(entries), seed=work.refiner.config.seed, **facts, **summary
    )
    return {"out": str(out), "images": len(entries), "units_done": now, "failed": failed, **summary}
