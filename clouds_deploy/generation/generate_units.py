"""`generate` unit by unit: on the machines of a cluster, into folders, shards and addresses."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import read_json
from clouds_deploy.console import say, warn
from clouds_deploy.generation.images import FAILED, IMAGES, KIND, SHEET, contact_sheet, draw_batch, shown
from clouds_deploy.generation.painter import Painter
from clouds_deploy.jobs.results import Outcome, Results
from clouds_deploy.jobs.run import Failed, Runner, run_here, run_units
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Span, Unit, cut

BLOCK = 64
"""Images that make a unit, about: it has whole batches."""


class GenerateWork:
    """Makes the images of a unit.

    Args:
        make: Loads the model, in whatever process the work is done.
        prompts: Image number i shows prompt i modulo their number.
        facts: All that the images depend on, `count`, `seed`, `batch` and `attempts` among it.
    """

    kind = KIND
    gpu = True

    def __init__(self, make: Callable[[], Painter], prompts: Sequence[str], facts: Mapping[str, Any]) -> None:
        self.make, self.prompts, self.facts = make, prompts, facts
        self._painter: Painter | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_painter": None}

    @property
    def painter(self) -> Painter:
        """Give the model."""
        if self._painter is None:
            self._painter = self.make()
        return self._painter

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        return dict(self.facts)

    def identity(self, unit: Unit) -> dict[str, str]:
        """See `Work`; the prompts are among the settings."""
        return {}

    def stage(self, unit: Unit, folder: Path) -> None:
        """See `Work`; there is nothing to fetch."""

    def work(self, unit: Unit, folder: Path) -> Outcome:
        """See `Work`."""
        assert isinstance(unit, Span)
        batch, seed, attempts = (self.facts[name] for name in ("batch", "seed", "attempts"))
        for at in range(0, len(unit.numbers), batch):
            group = unit.numbers[at : at + batch]
            draw_batch(self.painter, self.prompts, group, folder, self.facts, seed, attempts)
        files = {
            f"{p.parent.name}/{p.name}": p for name in (IMAGES, FAILED) for p in (folder / name).glob("*")
        }
        given_up = [read_json(path) for path in sorted((folder / FAILED).glob("*"))]
        images = len(files) - len(given_up)
        return Outcome(files, {"images": images, "given_up": [r["index"] for r in given_up], "failed": []})


def generate_units(
    work: GenerateWork, out: str | Path, *, shards: bool = False, runner: Runner = run_here
) -> dict[str, Any]:
    """Make all images, and go on where a killed run stopped.

    Each image has the bytes that `generate_images` writes; a shard holds it as `000000.png`.

    Args:
        work: The model and the settings.
        out: The folder to fill.
        shards: Whether to write shards.
        runner: Who does the units.

    Returns:
        As `generate_images`.

    Raises:
        CloudsError: See `run_units`.
    """
    begun, made, batch = time.perf_counter(), 0, work.facts["batch"]
    results = Results(Place(out), shards)
    units = cut(work.facts["count"], batch * max(1, BLOCK // batch))

    def counted(*given: Any) -> Iterator[Any]:
        nonlocal made
        for record in runner(*given):
            made += 0 if isinstance(record, Failed) else record["images"]
            yield record

    records, _, now = run_units(work, units, results, counted)
    given_up = [index for record in records for index in record["given_up"]]
    images = sum(record["images"] for record in records)
    sheet = [] if results.shards or not images else _draw_sheet(results.place, records, now)
    results.seal(KIND, records, sheet, **{**work.facts, "images": images, "failed": given_up})
    if given_up:
        warn(f"{len(given_up)} images came out blank or were refused {work.facts['attempts']} times")
    say(f"{images} images in {out}")
    return {
        "out": str(out), "made": made, "images": images, "failed": len(given_up), "complete": True,
        "wanted": work.facts["count"], "seconds": time.perf_counter() - begun, "model": work.facts["model"],
    }  # fmt: skip


def _draw_sheet(place: Place, records: Sequence[Mapping[str, Any]], now: int) -> list[str]:
    """Show some of the images; gives the sheet's name."""
    if now or not place.is_file(SHEET):
        names = sorted(name for r in records for name in r["outputs"] if name.startswith(f"{IMAGES}/"))
        with tempfile.TemporaryDirectory(prefix="clouds-") as folder:
            for name in shown(names):
                place.fetch(name, Path(folder) / name)
            contact_sheet(sorted((Path(folder) / IMAGES).iterdir())).save(Path(folder) / SHEET)
            place.put(Path(folder) / SHEET, SHEET)
    return [SHEET]
