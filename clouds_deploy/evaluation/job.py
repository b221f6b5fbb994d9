"""The verb `evaluate`: in one go, with a record of what is done, or on the machines of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.bundles.bundle import KIND as BUNDLE
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.config.evaluate import EvaluateOptions
from clouds_deploy.config.section import make_options
from clouds_deploy.console import say
from clouds_deploy.data.labelled import check_labelled, describe
from clouds_deploy.data.sources import LayoutSource, Source, known_classes, subset
from clouds_deploy.errors import CloudsError, shortened
from clouds_deploy.evaluation import clips
from clouds_deploy.evaluation.datasets import Comparison, comparison
from clouds_deploy.evaluation.evaluate import BLOCK, Evaluation, Metric, summarize
from clouds_deploy.evaluation.evaluate import evaluate as measure
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.predict import uses_gpu
from clouds_deploy.inference.segmenter import Segmenter, open_model
from clouds_deploy.jobs.results import MEMBERS, Done, Failed, Results
from clouds_deploy.jobs.run import Runner, run_job
from clouds_deploy.jobs.shards import is_image, split_member
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Span, Unit, cut, open_shard

KIND = "evaluation"
LABELS = MEMBERS["labels"]


@dataclass(frozen=True)
class _Images:
    """The images of a unit, ready to be read.

    Attributes:
        name: The unit's name.
        source: The images.
    """

    name: str
    source: Source
    size = 1

    def told(self) -> str:
        """Its place, for messages."""
        return self.name


class EvaluateWork:
    """Counts the pixels of images by true and predicted class.

    Args:
        model: A finished run, or a bundle.
        options: How to open it, and the metric.
        data: The images, by their name in the results: datasets, or units that are shards.
        segmenter: The model, opened; a copy that is sent to another process opens it again there.
    """

    kind, verb = KIND, "evaluate"

    def __init__(
        self,
        model: Path,
        options: EvaluateOptions,
        data: Mapping[str, Source | list[Unit]],
        segmenter: Segmenter | None = None,
    ) -> None:
        self.model, self.options, self.data = model, options, data
        self._segmenter = segmenter

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model.absolute(), "_segmenter": None}

    @property
    def segmenter(self) -> Segmenter:
        """The model."""
        if self._segmenter is None:
            self._segmenter = open_chosen(self.model, self.options)
        return self._segmenter

    @property
    def comparison(self) -> Comparison:
        """The label set that predictions and labels are compared in: the model's, or the one asked for."""
        return comparison(self.segmenter.recipe, self.options, "folder")

    @property
    def metric(self) -> Metric:
        """How labels are compared; a bundle's have the image's own size, which only `native` compares.

        Raises:
            CloudsError: There is no such metric, or the model does not know it.
        """
        asked, bundle = self.options.metric, self.segmenter.kind == BUNDLE
        if asked not in (None, "native", "official"):
            raise CloudsError(f"there is no metric `{asked}`", "known: `native`, `official`")
        if bundle and asked == "official":
            raise CloudsError(
                "a bundle's labels have the image's own size", "use --metric native, or the run"
            )
        chosen = asked or ("native" if bundle else self.segmenter.recipe.evaluate.metric)
        return "official" if chosen == "official" else "native"

    @property
    def gpu(self) -> bool:
        """See `Work`."""
        return uses_gpu(self.segmenter, self.options.device)

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        return {
            "model": self._identity(),
            "backend": self.segmenter.backend,
            "precision": self.options.precision,
            "metric": self.metric,
            **self._compared_in(),
            "data": {name: len(one) for name, one in self.data.items()},
        }

    def _identity(self) -> str:
        """The sha256 of the model's manifest, or of what tells a checkpoint from others."""
        if self.options.checkpoint is None:
            return sha256(self.model / MANIFEST)
        return str(self.segmenter.describe()["sha256"])

    def _compared_in(self) -> dict[str, Any]:
        """What was asked for beside the model's own classes."""
        asked = self.options.model_dump(mode="json", include={"classes", "read_as", "map"})
        return {"compared_in": asked} if any(asked.values()) else {}

    def units(self) -> list[tuple[str, Unit | Span]]:
        """All units, each with the name of its images."""
        found: list[tuple[str, Unit | Span]] = []
        for part, (name, one) in enumerate(self.data.items()):
            units = one if isinstance(one, list) else cut(len(one), BLOCK, name)
            prefix = f"{part}-" if len(self.data) > 1 else ""
            found += [(name, replace(unit, name=f"{prefix}{unit.name}")) for unit in units]
        return found

    def identity(self, unit: Unit | Span) -> dict[str, str]:
        """See `Work`."""
        if isinstance(unit, Unit):
            return unit.identity()
        images = self._selection(unit)
        files = [file for index in range(len(images)) for file in images.files(index)]
        return {str(file): sha256(file) for file in files}

    def _selection(self, unit: Span) -> Source:
        source = self.data[unit.part]
        assert not isinstance(source, list)
        return subset(source, unit.numbers)

    def stage(self, unit: Unit | Span, folder: Path) -> Sequence[_Images]:
        """See `Work`; a shard becomes a dataset of layout `folder`, other files are read where they are."""
        if isinstance(unit, Span):
            return [_Images(unit.name, self._selection(unit))]
        if not open_shard(unit.place, unit.files[0], folder, _place):
            raise CloudsError(f"{unit.told()} holds no images", f"a shard holds key.jpg and key.{LABELS}")
        return [_Images(unit.name, LayoutSource("folder", folder, "all", self.comparison.reading))]

    def work(self, items: Sequence[_Images], out: Path) -> Iterator[Done | Failed | str]:
        """See `Work`."""
        how = self.comparison
        for item in items:
            found = measure(
                self.segmenter.batch, item.source, self.metric, classes=how.classes, table=how.table
            )
            counts: Any = found.matrix.counts.tolist()
            yield Done(item.name, facts={"images": found.images, "counts": counts})


def open_chosen(model: Path, options: EvaluateOptions) -> Segmenter:
    """Opens the model as the options say; see `open_model`."""
    return open_model(
        model,
        backend=options.backend,
        device=options.device,
        precision=options.precision,
        checkpoint=options.checkpoint,
    )


def _place(member: str) -> str | None:
    """Where a shard's member goes: images and labels into folders of their own, under one name."""
    if is_image(member):
        return f"images/{member}"
    key, kind = split_member(member)
    return f"labels/{key}.png" if kind == LABELS else None


def run_evaluate(
    work: EvaluateWork, out: str | Path | None = None, *, runner: Runner | None = None
) -> dict[str, Evaluation]:
    """Evaluates block by block, and goes on where a killed run stopped.

    Args:
        work: The model and the images.
        out: The folder for a record of each block; None keeps none.
        runner: What executes the blocks; None is this process.

    Returns:
        The evaluation of each dataset, by its name.

    Raises:
        CloudsError: See `evaluate` and `run_job`; a shard cannot be read: the others are done by then; shards
            or a runner are given without `out`.
    """
    if out is None and any(isinstance(one, list) for one in work.data.values()):
        raise CloudsError("shards need a folder for their records", "give --out FOLDER")
    for name, one in work.data.items():
        if len(one) == 0:
            raise CloudsError(f"there are no images to evaluate on in {name}", "check the root and split")
    results = Results(None if out is None else Place(out), shards=False)
    names = {unit.name: name for name, unit in work.units()}
    report = run_job(work, [unit for _, unit in work.units()], results, runner)
    if report.failed:
        raise CloudsError(report.failed[0]["fault"], report.failed[0]["fix"], exit_code=1)
    how = work.comparison
    size = how.classes.count + (how.table is not None)
    found = {name: Evaluation(ConfusionMatrix(size), 0, work.metric, how.classes) for name in work.data}
    for item in report.items:
        name = names[item["name"]]
        found[name].matrix.counts += np.array(item["counts"])
        found[name] = replace(found[name], images=found[name].images + item["images"])
    facts = {name: one.to_dict() for name, one in found.items()}
    results.seal(KIND, report.records, **work.settings(), evaluations=facts)
    return found


def evaluate(model: str | Path, **options: Any) -> dict[str, Any]:
    """Measures mean intersection over union of a run or a bundle (docs/explanation/method.md 5).

    Args:
        model: A finished run, or a bundle.
        **options: Fields of `EvaluateOptions`.

    Returns:
        `Evaluation.to_dict()` with `model` and `data`; for several datasets `evaluate.summarize` with
        `model`; on clips what `clips.evaluate_clips` returns. All with `backend`, `device` and `read`: root,
        layout, split and encoding of each dataset.

    Raises:
        CloudsError: The model or the data cannot be read, or an option is wrong.
    """
    from clouds_deploy.evaluation.datasets import chosen_data
    from clouds_deploy.jobs.ray import load_runner

    chosen = make_options(EvaluateOptions, options)
    if chosen.out is None and chosen.runner != "local":
        raise CloudsError("other runners need a folder for their records", "give --out FOLDER")
    path = unpacked(Path(model))
    segmenter = open_chosen(path, chosen)
    if chosen.clips:
        found = clips.evaluate_clips(segmenter, chosen)
        where = {"model": str(model), "backend": segmenter.backend, "device": segmenter.device}
        return {**where, "read": [], **found}
    if chosen.smooth:
        raise CloudsError("images have no order of time to smooth", "give --clips too")
    data = chosen_data(segmenter.recipe, chosen)
    read = [facts for one in data.values() if not isinstance(one, list) for facts in describe(one)]
    for one in data.values():
        if not isinstance(one, list):
            check_labelled(one, "images")
    work = EvaluateWork(path, chosen, data, segmenter)
    how = work.comparison
    if chosen.map:
        known = set(segmenter.label_set.names)
        how.reading.check(known.union(*(known_classes(d) for d in data.values() if not isinstance(d, list))))
    if how.unmatched:
        lost = shortened(how.unmatched)
        say(f"no class of {how.classes.name} stands for {lost}: predicted, they count as wrong")
    runner = None if chosen.runner == "local" else load_runner(chosen.runner)
    evaluations = run_evaluate(work, chosen.out, runner=runner)
    about = {"model": str(model), "backend": segmenter.backend, "device": segmenter.device, "read": read}
    if how.unmatched:
        about["unmatched"] = list(how.unmatched)
    if len(chosen.given()) < 2:
        ((what, only),) = evaluations.items()
        return {**about, "data": what, **only.to_dict()}
    return {**about, **summarize(evaluations)}
