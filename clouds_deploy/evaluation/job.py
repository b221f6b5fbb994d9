"""`evaluate` unit by unit: on the machines of a cluster, or with a record of what is done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.console import progress
from clouds_deploy.data.sources import LayoutSource, Selection, Source
from clouds_deploy.errors import CloudsError
from clouds_deploy.evaluation.evaluate import BLOCK, Evaluation
from clouds_deploy.evaluation.evaluate import evaluate as measure
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.candidate import Candidate, open_candidate
from clouds_deploy.jobs.results import MEMBERS, Outcome, Results
from clouds_deploy.jobs.run import Runner, rename_fault, run_here, run_units
from clouds_deploy.jobs.shards import is_image, split_member
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Span, Unit, cut, open_shard

KIND = "evaluation"
LABELS = MEMBERS["labels"]


class EvaluateWork:
    """Counts the pixels of a unit's images.

    Args:
        model: A finished run, or a bundle.
        backend: Bundles only: the runtime.
        metric: `native` or `official`; None means the recipe's.
        data: The images, by what they are called: datasets, or units that are shards.
        candidate: The model, loaded; one that travels to another process is loaded again there.
    """

    kind = KIND

    def __init__(
        self,
        model: Path,
        backend: str,
        metric: str | None,
        data: Mapping[str, Source | list[Unit]],
        candidate: Candidate | None = None,
    ) -> None:
        self.model, self.backend, self.metric, self.data = model, backend, metric, data
        self._candidate = candidate

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model.absolute(), "_candidate": None}

    @property
    def candidate(self) -> Candidate:
        """Give the model."""
        if self._candidate is None:
            self._candidate = open_candidate(self.model, self.backend, self.metric)
        return self._candidate

    @property
    def gpu(self) -> bool:
        """See `Work`."""
        return self.candidate.backend == "torch"

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        return {
            "model": sha256(self.model / MANIFEST),
            "backend": self.candidate.backend,
            "metric": self.candidate.metric,
            "data": {name: len(one) for name, one in self.data.items()},
        }

    def units(self) -> list[tuple[str, Unit]]:
        """Give all units, each with what its images are called."""
        found: list[tuple[str, Unit]] = []
        for part, (name, one) in enumerate(self.data.items()):
            units = one if isinstance(one, list) else cut(len(one), BLOCK, name)
            prefix = f"{part}-" if len(self.data) > 1 else ""
            found += [(name, replace(unit, name=f"{prefix}{unit.name}")) for unit in units]
        return found

    def _images(self, unit: Unit, folder: Path) -> Source:
        if not isinstance(unit, Span):
            return LayoutSource("folder", folder, "all")
        source = self.data[unit.part]
        assert not isinstance(source, list)
        return Selection(source, unit.numbers)

    def identity(self, unit: Unit) -> dict[str, str]:
        """See `Work`."""
        if unit.shard:
            return unit.identity()
        images = self._images(unit, Path())
        files = [file for index in range(len(images)) for file in images.files(index)]
        return {str(file): sha256(file) for file in files}

    def stage(self, unit: Unit, folder: Path) -> None:
        """See `Work`; a shard becomes a dataset of layout `folder`, files are read where they are."""
        if unit.shard and not open_shard(unit.place, unit.files[0], folder, _place):
            raise CloudsError(f"{unit.told()} holds no images", f"a shard holds key.jpg and key.{LABELS}")

    def work(self, unit: Unit, folder: Path) -> Outcome:
        """See `Work`."""
        try:
            found = measure(self.candidate.predict, self._images(unit, folder), self.candidate.metric)
        except CloudsError as fault:
            raise rename_fault(fault, unit, folder) from fault
        counts: Any = found.matrix.counts.tolist()
        return Outcome({}, {"images": found.images, "counts": counts, "failed": []})


def _place(member: str) -> str | None:
    """Say where a shard's member goes: images and labels into folders of their own, under one name."""
    if is_image(member):
        return f"images/{member}"
    key, kind = split_member(member)
    return f"labels/{key}.png" if kind == LABELS else None


def evaluate_here(work: EvaluateWork) -> dict[str, Evaluation]:
    """Evaluate at once, without records.

    Raises:
        CloudsError: See `evaluate`; there are shards among the data, which need records.
    """
    found = {}
    for name, source in work.data.items():
        if isinstance(source, list):
            raise CloudsError("shards need a folder for their records", "say --out FOLDER")
        with progress("evaluating", len(source), "image") as advance:
            found[name] = measure(work.candidate.predict, source, work.candidate.metric, advance)
    return found


def evaluate_units(
    work: EvaluateWork, out: str | Path, *, runner: Runner = run_here
) -> dict[str, Evaluation]:
    """Evaluate block by block, with a record of each, and go on where a killed run stopped.

    Args:
        work: The model and the images.
        out: The folder for the records.
        runner: Who does the units.

    Returns:
        What `evaluate` gives for each dataset, count by count.

    Raises:
        CloudsError: See `evaluate` and `run_units`; a shard cannot be read: the others are done by then.
    """
    results = Results(Place(out), shards=False)
    names, units = zip(*work.units(), strict=True)
    records, failed, _ = run_units(work, units, results, runner)
    if failed:
        raise CloudsError(failed[0]["fault"], failed[0]["fix"], exit_code=1)
    matrices = {name: ConfusionMatrix() for name in work.data}
    images = Counter[str]()
    for name, record in zip(names, records, strict=True):
        matrices[name].counts += np.array(record["counts"])
        images[name] += record["images"]
    metric = work.candidate.metric
    found = {name: Evaluation(matrix, images[name], metric) for name, matrix in matrices.items()}
    facts = {name: one.to_dict() for name, one in found.items()}
    results.seal(KIND, records, **work.settings(), evaluations=facts)
    return found


def evaluate(
    model: str | Path,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    layout: str | None = None,
    split: str = "val",
    domain: str | None = None,
    images: int | None = None,
    metric: str | None = None,
    backend: str = "onnxruntime",
    out: str | Path | None = None,
    runner: str = "local",
) -> dict[str, Any]:
    """Measure mean intersection over union of a run or a bundle (docs/method.md 5).

    Args:
        model: A finished run, or a bundle.
        data: The dataset's folder, or `LAYOUT:ROOT`, or `LAYOUT@SPLIT:ROOT`, or shards, also at an address;
            several of them give each domain's figures and their average. None for drawn streets, or for what
            the run's recipe names.
        layout: A folder's layout; None means what the run's recipe evaluates on, if the folder can be read
            so, or what it looks like.
        split: Its split.
        domain: `streets` only: `game`, `imagined` or `photo`.
        images: Evaluate on this many of each only.
        metric: `native` or `official`; None means the recipe's. A bundle gives labels at the image's own
            size, so it knows `native` only.
        backend: Bundles only: the runtime.
        out: A folder for a record of every 32 images, so that a killed evaluation goes on there.
        runner: `local`, or `ray`: on all machines of a Ray cluster, which reach `out`.

    Returns:
        `Evaluation.to_dict()` with `model` and `data`; for several datasets `evaluation.evaluate.summarize`
        with `model`.

    Raises:
        CloudsError: The model or the data cannot be read, or the metric is unknown.
    """
    from clouds_deploy.evaluation.datasets import chosen_data
    from clouds_deploy.evaluation.evaluate import summarize
    from clouds_deploy.evaluation.job import EvaluateWork, evaluate_here, evaluate_units
    from clouds_deploy.inference.candidate import open_candidate
    from clouds_deploy.jobs.ray import load_runner

    given = [data] if isinstance(data, str | Path) else list(data or ())
    path = unpacked(Path(model))
    candidate = open_candidate(path, backend, metric)
    chosen = chosen_data(candidate.recipe, given, layout, split, domain, images)
    work = EvaluateWork(path, backend, metric, chosen, candidate)
    if out is None and runner != "local":
        raise CloudsError("other runners need a folder for their records", "say --out FOLDER")
    found = evaluate_here(work) if out is None else evaluate_units(work, out, runner=load_runner(runner))
    about = {"model": str(model), "backend": candidate.backend}
    if len(given) < 2:
        ((what, only),) = found.items()
        return {**about, "data": what, **only.to_dict()}
    return {**about, **summarize(found)}
