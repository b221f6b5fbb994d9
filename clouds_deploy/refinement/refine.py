"""The verb `refine`: refines pseudo-labels of folders and tar shards with a SAM."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from clouds_deploy.artifacts import MANIFEST, kind_of, read_json
from clouds_deploy.backends.memory import kept_memory
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.config.parse import settings
from clouds_deploy.config.refine import RefineOptions
from clouds_deploy.config.section import make_options
from clouds_deploy.console import say
from clouds_deploy.data.images import passed_over, tell_passed_over, write_png
from clouds_deploy.data.overlay import before_and_after
from clouds_deploy.inference.predict import CONFIDENCES, LABELS, OVERLAYS
from clouds_deploy.inference.predict import KIND as PREDICTION
from clouds_deploy.jobs.results import Done, Failed, Results
from clouds_deploy.jobs.run import Runner, check_apart, pipeline, run_job
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Unit, find_units, is_spread
from clouds_deploy.labels import CITYSCAPES, LabelSet, chosen_label_set, load_label_set
from clouds_deploy.refinement.changes import add_changes, count_changes, summarize_changes
from clouds_deploy.refinement.pairs import (
    Loaded,
    Maps,
    Pair,
    confidence_maps,
    find_pairs,
    label_maps,
    load_pair,
)
from clouds_deploy.refinement.prompts import Plan, Proposals
from clouds_deploy.refinement.refiner import Refiner, SamRefiner

KIND = "refinement"
BLOCK = 256
"""Images of a folder that make a unit, where the job goes unit by unit."""
_ELSEWHERE = ("backend", "device")
"""What may differ between a run and its resumption: where SAM is computed."""
_GIVE_BACK_EVERY = 64
"""Images after which free memory goes back to the kernel: images of many sizes leave holes."""


@dataclass(frozen=True)
class _Ready:
    """An image that can go to SAM."""

    pair: Pair
    loaded: Loaded
    plan: Plan
    inputs: dict[str, str]


class RefineWork:
    """Refines the labels of images.

    Args:
        make: Makes the refiner, in whatever process the work is done.
        labels: Folder of label PNGs, or shards with them; see `Maps`.
        confidences: The same for confidences; None takes those that `predict` wrote beside the labels, if it
            did.
        batch: Images that go to SAM together.
        overlays: Number of before-and-after pictures, spread over the folder (over the first
            unit, where the job goes unit by unit).
    """

    kind, verb = KIND, "refine"
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
        self.given = [labels, *([] if confidences is None else [confidences])]
        self.first = ""
        self._refiner: Refiner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_refiner": None}

    @property
    def refiner(self) -> Refiner:
        """SAM and the settings."""
        if self._refiner is None:
            self._refiner = self.make()
        return self._refiner

    @cached_property
    def labels(self) -> Maps:
        """The label maps."""
        return label_maps(self.given[0])

    @cached_property
    def confidences(self) -> Maps | None:
        """The confidences, if there are any."""
        return confidence_maps(self.given[0], *self.given[1:])

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        facts = self.refiner.describe()
        return {**facts, "sam": {k: v for k, v in facts["sam"].items() if k not in _ELSEWHERE}}

    def identity(self, unit: Unit | Pair) -> dict[str, str]:
        """See `Work`."""
        if isinstance(unit, Pair):
            return unit.identity()
        names = [] if unit.shard else [str(PurePosixPath(file).with_suffix("")) for file in unit.files]
        found = {**unit.identity(), **self.labels.identity(unit, names)}
        if self.confidences is not None:
            found |= self.confidences.identity(unit, names)
        return found

    def pairs(self, images: Path) -> list[Pair]:
        """The images of a local folder with their labels; see `find_pairs`."""
        return _chosen(find_pairs(images, *self.given), self.overlays)

    def stage(self, unit: Unit, folder: Path) -> Sequence[Pair]:
        """See `Work`."""
        items = unit.stage(folder / "images")
        names = [item.name for item in items]
        labels = self.labels.stage(unit, names, folder / LABELS)
        sure = self.confidences
        if sure is not None and not sure.stage(unit, names, folder / CONFIDENCES) and not sure.asked:
            sure = None
        pairs = [
            Pair(
                item.name,
                item.path,
                labels.get(item.name),
                folder / CONFIDENCES / f"{item.name}.png" if sure is not None else None,
            )
            for item in items
        ]
        return _chosen(pairs, self.overlays if unit.name == self.first else 0)

    def work(self, items: Sequence[Pair], out: Path) -> Iterator[Done | Failed | str]:
        """See `Work`."""

        def prepare(pair: Pair) -> _Ready:
            loaded = load_pair(pair, self.refiner.label_set)
            plan = self.refiner.plan(loaded.labels, loaded.confidence, zlib.crc32(pair.name.encode()))
            return _Ready(pair, loaded, plan, pair.identity())

        def propose(ready: list[_Ready]) -> list[Proposals]:
            return self.refiner.propose([r.loaded.image for r in ready], [r.plan for r in ready])

        def finish(one: _Ready, answer: Proposals) -> Done:
            before, name = one.loaded.labels, f"{one.pair.name}.png"
            classes = self.refiner.label_set
            result = self.refiner.merge(before, one.plan, answer, one.loaded.confidence)
            files = {f"{LABELS}/{name}": result.labels}
            if one.pair.drawn:
                files[f"{OVERLAYS}/{name}"] = before_and_after(
                    one.loaded.image, before, result.labels, classes
                )
            for file, pixels in files.items():
                write_png(out / file, pixels)
            facts = {
                "prompted": result.prompted,
                "accepted": result.accepted,
                "changes": count_changes(before, result.labels, classes.count).tolist(),
            }
            return Done(one.pair.name, {file: out / file for file in files}, one.inputs, facts)

        with kept_memory() as give_back:
            outcomes = pipeline(items, prepare, propose, finish, batch=self.batch)
            for number, outcome in enumerate(outcomes, start=1):
                yield outcome
                if number % _GIVE_BACK_EVERY == 0:
                    give_back()


def _chosen(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """Marks `count` images, evenly spaced, as to be drawn."""
    few = min(count, len(pairs))
    drawn = {(2 * i + 1) * len(pairs) // (2 * few) for i in range(few)}
    return [replace(pair, drawn=number in drawn) for number, pair in enumerate(pairs)]


def run_refine(
    work: RefineWork,
    images: str | Path,
    out: str | Path,
    *,
    shards: bool | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Refines the labels of a folder's or of shards' images, and goes on where a killed run stopped.

    Refined label maps are PNGs of train ids under `labels/`, named as `predict` names them, or
    `key.labels.png` in shards; 255 is a pixel without a label, which `unlabelled_means` explains. A run that
    is finished does nothing more. Images that cannot be read are passed over, listed, and in a local folder
    tried again the next time.

    Args:
        work: SAM, the settings and the labels.
        images: Folder of images, local or remote, or shards.
        out: The folder to fill.
        shards: Whether to write shards; None writes them where shards are read.
        runner: What executes the units; None is this process, image by image where all files are local.

    Returns:
        `out`, `images` refined in all, `refined` by this run, `failed` (`path`, `fault` and `fix` each),
        `passed_over`: pictures of formats that are not read,
        `unlabelled_means`, `prompts`, `masks_taken`, what `summarize_changes` gives, `images_per_second` of
        this run (null if it did nothing), and `units_done` by this run, where it went unit by unit.

    Raises:
        CloudsError: No image could be refined (exit code 1); see also `find_pairs`, `find_units`, `Maps` and
            `run_job`.
    """
    check_apart(Place(out), [Place(one) for one in (images, *work.given)])
    by_unit = bool(shards) or runner is not None or is_spread([images, *work.given], out)
    units: Sequence[Any]
    over: list[str] = []
    if by_unit:
        units = find_units([images], BLOCK, over)
        work.first = units[0].name
        results = Results(Place(out), units[0].shard if shards is None else shards)
    else:
        units, results = work.pairs(Path(images)), Results(Place(out), None)
        over = [str(path) for path in passed_over([Path(images)])]
    tell_passed_over(over)
    report = run_job(work, units, results, runner)
    items, classes = report.items, work.refiner.label_set
    changes = (np.array(item["changes"], np.int64).reshape(-1, 3) for item in items)
    summary = {
        "unlabelled_means": "negative" if work.refiner.config.mode == "official" else "ignored",
        "prompts": report.total("prompted"),
        "masks_taken": report.total("accepted"),
        **summarize_changes(add_changes(changes, classes.count), classes),
    }
    results.seal(
        KIND, report.records, inputs={item["name"]: item["inputs"] for item in items}, failed=report.failed,
        images=len(items), seed=work.refiner.config.seed, **work.refiner.describe(), **summary,
    )  # fmt: skip
    return {
        "out": str(out),
        "images": len(items),
        "refined": len(report.new_items),
        "failed": report.failed,
        "passed_over": over,
        **summary,
        "images_per_second": len(report.new_items) / report.seconds if report.new else None,
        **({"units_done": len(report.new)} if by_unit else {}),
    }


def labels_of(labels: str | Path) -> LabelSet:
    """Label set of a folder of label maps: what `predict` wrote beside them, or Cityscapes' 19 classes."""
    folder = Path(labels)
    for place in (folder, folder.parent):
        if kind_of(place) in (PREDICTION, KIND):
            manifest = read_json(place / MANIFEST)
            return chosen_label_set(manifest.get("predictor", manifest).get("label_set", CITYSCAPES))
    return CITYSCAPES


def refine(
    sam: str, *, images: str | Path, labels: str | Path, out: str | Path, **options: Any
) -> dict[str, Any]:
    """Refines pseudo-labels with a SAM; see `run_refine` for what is written and returned.

    Args:
        sam: A SAM's name, see `models.sam.build.load_sam`, or its bundle.
        images: Folder of images, or shards.
        labels: Their label PNGs, or what `predict` wrote.
        out: The folder to fill; a killed run goes on there.
        **options: Fields of `RefineOptions`.
    """
    from clouds_deploy.jobs.ray import load_runner

    chosen = make_options(RefineOptions, options)
    config = settings(RefineConfig, (f"mode={chosen.mode}", f"seed={chosen.seed}", *chosen.overrides))
    classes = labels_of(labels) if chosen.classes is None else load_label_set(chosen.classes)
    if classes != CITYSCAPES:
        say(f"labels are of label set {classes.name}, {classes.count} classes")
    how = (chosen.backend, chosen.precision, chosen.device, classes)
    make = SamRefiner(str(unpacked(Path(sam))), chosen.weights, config, *how)
    work = RefineWork(
        make, labels, confidences=chosen.confidences, batch=chosen.batch, overlays=chosen.overlays
    )
    runner = None if chosen.runner == "local" else load_runner(chosen.runner)
    return run_refine(work, images, out, shards=chosen.shards, runner=runner)
