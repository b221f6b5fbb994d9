"""The verb `generate`: images of prompts, each a function of the run's seed and its number.

Batches are cut in the same places however often a run is killed, so that the images are always the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from clouds_deploy import seeds
from clouds_deploy.artifacts import write_json
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.artifacts.names import inside
from clouds_deploy.config.generate import GenerateOptions
from clouds_deploy.config.section import make_options
from clouds_deploy.console import say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.images import FAILED, IMAGES, SHEET, contact_sheet, fault, shown, write_image
from clouds_deploy.generation.painter import STREETS, Painter, load_painter
from clouds_deploy.generation.prompts import TEXT
from clouds_deploy.jobs.results import LEDGER, Done, Failed, Record, Results, read_ledger
from clouds_deploy.jobs.run import Runner, run_job
from clouds_deploy.jobs.storage import Place, is_url
from clouds_deploy.jobs.units import Span, cut

KIND = "generated"
BLOCK = 64
"""Images that make a unit, about: it has whole batches."""


class GenerateWork:
    """Generates images.

    Args:
        make: Loads the model, in whatever process the work is done.
        prompts: Image number i shows prompt i modulo their number.
        facts: Everything that the images depend on, `count`, `seed`, `batch` and `attempts` among it.
        painter: The model, loaded; a copy that is sent to another process loads it again there.
        shard: Number of this process, from 0, of those that share a folder, and how many they are.
    """

    kind, verb = KIND, "generate"
    gpu = True

    def __init__(
        self,
        make: Callable[[], Painter],
        prompts: Sequence[str],
        facts: Mapping[str, Any],
        painter: Painter | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        self.make, self.prompts, self.facts, self.shard = make, prompts, facts, shard
        self._painter = painter

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_painter": None}

    @property
    def painter(self) -> Painter:
        """The model."""
        if self._painter is None:
            self._painter = self.make()
        return self._painter

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        return dict(self.facts)

    def identity(self, unit: Span) -> dict[str, str]:
        """See `Work`; the prompts are among the settings."""
        return {}

    def stage(self, unit: Span, folder: Path) -> Sequence[Span]:
        """See `Work`; there is nothing to fetch."""
        return _single(unit.numbers)

    def work(self, items: Sequence[Span], out: Path) -> Iterator[Done | Failed | str]:
        """See `Work`."""
        wanted = {item.numbers[0] for item in items}
        batch, (part, parts) = self.facts["batch"], self.shard
        own = range(part, self.facts["count"], parts)
        for at in range(0, len(own), batch):
            group = own[at : at + batch]
            for number, image, attempt, why in self._draw(group, wanted.intersection(group)):
                name, prompt = f"{number:06d}", self.prompts[number % len(self.prompts)]
                if image is None:
                    file = f"{FAILED}/{name}.json"
                    write_json(out / file, {"index": number, "prompt": prompt, "fault": why})
                else:
                    file = f"{IMAGES}/{name}.png"
                    write_image(
                        out / file,
                        image,
                        {"prompt": prompt, "index": number, "attempt": attempt, **self.facts},
                    )
                facts = {"given_up": 1} if image is None else {"images": 1}
                yield Done(name, {file: out / file}, facts=facts)

    def _draw(
        self, group: Sequence[int], wanted: Collection[int]
    ) -> Iterator[tuple[int, Image.Image | None, int, str]]:
        """Draws a batch, then again those of it that failed; the whole batch, where any of it is missing.

        Yields:
            Number, image, attempt of each that is wanted; after the last attempt None and what was wrong.
        """
        left = list(group) if wanted else []
        why: dict[int, str] = {}
        attempts = self.facts.get("attempts", 3)
        for attempt in range(attempts):
            if not left:
                return
            found = self.painter.paint(
                [self.prompts[i % len(self.prompts)] for i in left],
                [seeds.derive(self.facts["seed"], i, attempt) for i in left],
            )
            for number, image in zip(left, found, strict=True):
                wrong = fault(image)
                if wrong:
                    why[number] = wrong
                    continue
                why.pop(number, None)
                if number in wanted:
                    yield number, image, attempt, ""
            left = [i for i in left if i in why]
        for number in left:
            if number in wanted:
                yield number, None, attempts, why[number]


def _single(numbers: Iterable[int]) -> list[Span]:
    return [Span(f"{number:06d}", range(number, number + 1)) for number in numbers]


def run_generate(
    work: GenerateWork,
    out: str | Path,
    *,
    shards: bool = False,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Generates images, and goes on where a killed run stopped.

    Images are `images/000000.png`, or `000000.png` in shards, and say how they were made. For one that came
    out blank or was refused too often there is `failed/000000.json`. A contact sheet and the manifest are
    written by the process that is done last.

    Args:
        work: The model and the settings.
        out: The folder to fill.
        shards: Whether to write tar shards.
        runner: What executes the units; None is this process, image by image into a local folder.

    Returns:
        `out`, images `made` now, `images` and `failed` in the folder, `wanted`, `complete`, `seconds`,
        `model`.

    Raises:
        CloudsError: See `run_job`.
    """
    count, batch, place = work.facts["count"], work.facts["batch"], Place(out)
    part, parts = work.shard
    if shards or runner is not None or is_url(out):
        units, results = cut(count, batch * max(1, BLOCK // batch)), Results(place, shards)
    else:
        units = _single(range(part, count, parts))
        results = Results(place, None, LEDGER if parts == 1 else f"ledger-{part}.jsonl")
    report = run_job(work, units, results, runner)
    records = report.records
    if results.shards is None and parts > 1:
        ledgers = sorted(results.folder.glob("ledger-*.jsonl"))
        records = [record for ledger in ledgers for record in read_ledger(ledger).values()]
        records = [record for record in records if results.holds(record)]
    items = [item for record in records for item in record.get("items", (record,))]
    given_up = sorted(int(item["name"]) for item in items if "given_up" in item)
    images, complete = len(items) - len(given_up), len(items) == count
    if complete:
        sheet = [] if results.shards or not images else _draw_sheet(place, records, bool(report.new))
        results.seal(KIND, records, sheet, **{**work.facts, "images": images, "failed": given_up})
        say(f"{images} images in {out}")
    if given_up:
        attempts = work.facts.get("attempts", 3)
        warn(f"{len(given_up)} images were blank or refused {attempts} times: see {place.told(FAILED)}")
    return {
        "out": str(out), "made": sum(item.get("images", 0) for item in report.new_items), "images": images,
        "failed": len(given_up), "wanted": count, "complete": complete, "seconds": report.seconds,
        "model": work.facts["model"],
    }  # fmt: skip


def _draw_sheet(place: Place, records: Sequence[Record], changed: bool) -> list[str]:
    """Writes a contact sheet of some images, where there is none of these yet, and returns its name."""
    if changed or not place.is_file(SHEET):
        names = sorted(name for r in records for name in r["outputs"] if name.startswith(f"{IMAGES}/"))
        with Scratch() as folder:
            for name in shown(names):
                place.fetch(name, inside(folder, name, place.told()))
            contact_sheet(sorted((folder / IMAGES).iterdir())).save(folder / SHEET)
            place.put(folder / SHEET, SHEET)
    return [SHEET]


def generate(out: str | Path, **options: Any) -> dict[str, Any]:
    """Generates images of prompts (CLOUDS, section 3.2: "Image generation"); see `run_generate`.

    Args:
        out: The folder to fill; a killed run goes on there.
        **options: Fields of `GenerateOptions`.

    Raises:
        CloudsError: An option is wrong, there are no prompts, the model is not available, or `out` holds
            images of other settings.
    """
    from clouds_deploy.jobs.ray import load_runner

    chosen = make_options(GenerateOptions, options)
    texts = []
    if chosen.prompts is not None:
        texts = [text + chosen.suffix for text in read_prompts(Path(chosen.prompts))]
    if not texts and chosen.model != STREETS:
        raise CloudsError(f"{chosen.model} needs prompts", "make some: clouds-deploy prompts --out prompts")
    if not texts and chosen.count is None:
        raise CloudsError("the number of images is missing", "give --count, or --prompts")
    count = len(texts) if chosen.count is None else chosen.count
    part, parts = chosen.part()
    if count < 1 or chosen.batch < 1 or chosen.attempts < 1:
        raise CloudsError(
            f"count {count}, batch {chosen.batch} and attempts {chosen.attempts} cannot be used",
            "each has to be at least 1",
        )
    if parts > 1 and (chosen.shards or chosen.runner != "local" or is_url(out)):
        raise CloudsError(
            f"--shard {chosen.shard} is for processes that share a folder",
            "leave it out: here units are shared",
        )
    make = partial(
        load_painter, _absolute(chosen.model), chosen.settings, _absolute(chosen.adapter),
        chosen.adapter_scale, chosen.device,
    )  # fmt: skip
    painter = load_painter(chosen.model, chosen.settings, chosen.adapter, chosen.adapter_scale, chosen.device)
    facts = {
        **painter.describe(),
        **asdict(chosen.settings),
        "seed": chosen.seed,
        "count": count,
        "batch": chosen.batch,
        "attempts": chosen.attempts,
        "shards": parts,
        "prompts_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
    }
    runner = None if chosen.runner == "local" else load_runner(chosen.runner)
    work = GenerateWork(make, texts or [""], facts, painter, (part, parts))
    return run_generate(work, out, shards=chosen.shards, runner=runner)


def _absolute(model: Any) -> Any:
    """A model's folder as a path that means the same in another process; names stay."""
    return str(Path(model).absolute()) if model and Path(model).exists() else model


def read_prompts(path: Path) -> list[str]:
    """Reads prompts from a folder that the verb `prompts` wrote, or from a text file with one a line."""
    file = path / TEXT if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CloudsError(
            f"{file} holds no prompts: {error}", "give a text file with one prompt a line"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise CloudsError(f"{file} holds no prompts", "give a text file with one prompt a line")
    return found
