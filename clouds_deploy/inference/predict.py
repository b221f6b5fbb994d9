"""The verb `predict`: labels images, folders, videos and tar shards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import sha256
from clouds_deploy.artifacts.claims import remove
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.predict import PredictOptions
from clouds_deploy.config.section import make_options
from clouds_deploy.data.images import (
    Pixels,
    passed_over,
    read_image,
    seen_smaller,
    tell_passed_over,
    write_png,
)
from clouds_deploy.data.overlay import overlay, overlay_with_legend
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.segmenter import RUN, Segmenter, open_model
from clouds_deploy.inference.smooth import STRENGTH, Smoother
from clouds_deploy.jobs.results import Done, Failed, Results
from clouds_deploy.jobs.run import Runner, check_apart, pipeline, run_job
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import Item, Unit, find_units, is_spread, list_items
from clouds_deploy.labels import CITYSCAPES, LabelSet, chosen_label_set

KIND = "prediction"
LABELS, OVERLAYS, CONFIDENCES = "labels", "overlays", "confidences"
SMALLER = "seen_smaller"
"""Fact of an image that was too large for the network; see `network_size`."""
BLOCK = 256
"""Images of a folder that make a unit, where the job goes unit by unit."""


class PredictWork:
    """Labels images.

    Args:
        model: A finished run, or a bundle.
        options: How, and what to write.
        predictor: The model, opened; a copy that is sent to another process opens it again there.
    """

    kind, verb = KIND, "predict"

    def __init__(
        self, model: Path, options: PredictOptions | None = None, predictor: Segmenter | None = None
    ) -> None:
        self.model, self.options = model, options or PredictOptions()
        self._predictor = predictor

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "model": self.model.absolute(), "_predictor": None}

    @property
    def predictor(self) -> Segmenter:
        """The model."""
        if self._predictor is None:
            how = self.options
            self._predictor = open_model(
                self.model,
                backend=how.backend,
                device=how.device,
                precision=how.precision,
                vocabulary=None if how.vocabulary is None else Vocabulary.load(how.vocabulary),
            )
        return self._predictor

    @cached_property
    def label_set(self) -> LabelSet:
        """The classes of the labels."""
        return chosen_label_set(self.predictor.describe().get("label_set", CITYSCAPES))

    @property
    def gpu(self) -> bool:
        """See `Work`."""
        return uses_gpu(self.predictor, self.options.device)

    def settings(self) -> dict[str, Any]:
        """See `Work`."""
        model = {k: v for k, v in self.predictor.describe().items() if k not in ("path", "device")}
        written = {"overlays": self.options.overlays, "confidences": self.options.confidences}
        smoothed = {"smooth": STRENGTH} if self.options.smooth else {}
        classes = self.options.vocabulary
        other = {} if classes is None else {"vocabulary": sha256(classes)}
        return {"predictor": model, **written, **smoothed, **other}

    def identity(self, unit: Unit | Item) -> dict[str, str]:
        """See `Work`."""
        return unit.identity()

    def stage(self, unit: Unit, folder: Path) -> Sequence[Item]:
        """See `Work`."""
        return unit.stage(folder / "images")

    def work(self, items: Sequence[Item], out: Path) -> Iterator[Done | Failed | str]:
        """See `Work`; videos come last."""

        def finish(given: tuple[Item, Pixels, dict[str, str]], answer: tuple[Pixels, Pixels | None]) -> Done:
            item, image, inputs = given
            labels, confidence = answer
            written = {LABELS: labels}
            if confidence is not None:
                written[CONFIDENCES] = confidence
            if self.options.overlays:
                written[OVERLAYS] = overlay_with_legend(image, labels, classes=self.label_set)
            files = {f"{folder}/{item.name}.png": pixels for folder, pixels in written.items()}
            for name, pixels in files.items():
                write_png(out / name, pixels)
            facts = {"images": 1, **({SMALLER: 1} if self._seen_smaller(image) else {})}
            return Done(item.name, {name: out / name for name in files}, inputs, facts)

        images = [item for item in items if not item.video]
        yield from pipeline(images, lambda i: (i, read_image(i.path), i.identity()), self._label, finish)
        for item in items:
            if item.video:
                yield from self._video(item, out)

    def _seen_smaller(self, image: Pixels) -> bool:
        """Whether the model is a run whose network sees an image smaller than its recipe says."""
        if self.predictor.describe().get("kind") != RUN:
            return False
        return seen_smaller(image.shape[0], image.shape[1], self.predictor.recipe.evaluate.short_side)

    def _label(
        self, given: list[tuple[Item, Pixels, dict[str, str]]]
    ) -> list[tuple[Pixels, Pixels | None] | Failed]:
        """Labels of images, and their confidences where they are asked for."""
        found: list[tuple[Pixels, Pixels | None] | Failed] = []
        for item, image, _ in given:
            try:
                if self.options.confidences:
                    found.append(self.predictor.predict_with_trust(image))
                else:
                    found.append((self.predictor.predict(image), None))
            except CloudsError as fault:
                found.append(Failed(item.told(), fault))
        return found

    def _video(self, item: Item, out: Path) -> Iterator[Done | Failed | str]:
        """Labels a video frame by frame, with one frame in memory at a time.

        Of a damaged video nothing is kept: half of its label maps would look like all of them.
        """
        from clouds_deploy.data.video import frame_rate, frame_times, read_frames, write_video

        movie = out / OVERLAYS / f"{item.name}.mp4"
        files = {f"{OVERLAYS}/{item.name}.mp4": movie} if self.options.overlays else {}
        count = 0
        try:
            times = frame_times(item.path) if self.options.overlays else None
            rate = frame_rate(item.path)  # opens it, so that a damaged one leaves no folder
            with contextlib.ExitStack() as stack:
                writer = stack.enter_context(write_video(movie, rate)) if self.options.overlays else None
                label = Smoother(self.predictor) if self.options.smooth else self.predictor.predict
                for frame in read_frames(item.path):
                    labels = label(frame)
                    name = f"{item.name}/{count:06d}.png"
                    write_png(out / LABELS / name, labels)
                    files[f"{LABELS}/{name}"] = out / LABELS / name
                    if writer is not None:
                        late = max(0, count - len(times or ()) + 1)  # more frames than packets
                        time = times[count - late] + late / rate if times else None
                        writer.write(overlay(frame, labels, classes=self.label_set), time)
                    count += 1
                    yield f"{item.path.name} frame {count}"
                if not count:
                    raise CloudsError(f"{item.path} holds no frame", "give a video with pictures in it")
        except CloudsError as fault:
            for path in files.values():
                remove(path)
            with contextlib.suppress(OSError):
                (out / LABELS / item.name).rmdir()
            yield Failed(item.told(), fault)
            return
        yield Done(item.name, files, item.identity(), {"frames": count})


def uses_gpu(model: Segmenter, device: str) -> bool:
    """Whether a model computes on a GPU, on machines of a cluster that have one."""
    return device != "cpu" and (model.backend == "torch" or model.device != "cpu")


def run_predict(
    work: PredictWork,
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    shards: bool | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Labels images and goes on where a killed run stopped.

    Label maps are PNGs of train ids under `labels/`, named like their image (and its subfolder, where a
    folder was given); names that would collide get the file type and then a number appended. A video becomes
    a folder of label maps. Overlays are written under `overlays/`, a video's as MP4, and confidences of
    images under `confidences/` as 8-bit grey PNGs, 255 where the model is certain. A shard's results are a
    shard of the same name with `key.labels.png`, `key.overlay.png` and `key.confidence.png`.

    Args:
        work: The model and what to write.
        paths: Images, videos, folders of both; shards, and remote folders of shards or images.
        out: The folder to fill.
        shards: Whether to write shards; None writes them where shards are read.
        runner: What executes the units; None is this process, image by image where all files are local.

    Returns:
        `out`, the numbers of `images` and `frames` labelled, `failed`: `path`, `fault` and `fix` of every
        file that could not be labelled, `passed_over`: pictures and videos of formats that are not read,
        `seen_smaller`: the number of images that were too large for a run's network and that it saw smaller,
        `backend` and `device`. The caller's exit code is 1 when any failed.

    Raises:
        CloudsError: A path is not there, a folder holds nothing to label, no file could be labelled; see also
            `find_units` and `run_job`.
    """
    over: list[str] = []
    by_unit = bool(shards) or runner is not None or is_spread(paths, out)
    units: Sequence[Any]
    if by_unit:
        units = find_units(paths, BLOCK, over)
        check_apart(Place(out), map(Place, paths))
        results = Results(Place(out), all(unit.shard for unit in units) if shards is None else shards)
    else:
        own = Path(out).resolve()
        items = list_items([Path(path) for path in paths])
        over = [str(path) for path in passed_over([Path(path) for path in paths])]
        units = [item for item in items if not item.path.resolve().is_relative_to(own)]
        results = Results(Place(out), None)
    tell_passed_over(over)
    report = run_job(work, units, results, runner)
    told = {"images": report.total("images"), "frames": report.total("frames"), "failed": report.failed}
    inputs = (
        {name: value for record in report.records for name, value in record["inputs"].items()}
        if by_unit
        else {unit.name: unit.told() for unit in units}
    )
    model = work.predictor.describe()
    results.seal(KIND, report.records, predictor=model, inputs=inputs, **told)
    where = {key: model.get(key) for key in ("backend", "device")}
    return {"out": str(out), **told, "passed_over": over, SMALLER: report.total(SMALLER), **where}


def predict(
    model: str | Path, paths: Sequence[str | Path], *, out: str | Path, **options: Any
) -> dict[str, Any]:
    """Labels images, folders, videos and tar shards; see `run_predict` for what is written and returned.

    Args:
        model: A finished run, or a bundle.
        paths: What to label.
        out: The folder to fill; a killed run goes on there.
        **options: Fields of `PredictOptions`.
    """
    from clouds_deploy.jobs.ray import load_runner

    chosen = make_options(PredictOptions, options)
    runner = None if chosen.runner == "local" else load_runner(chosen.runner)
    work = PredictWork(unpacked(Path(model)), chosen)
    return run_predict(work, paths, out, shards=chosen.shards, runner=runner)
