"""The verbs, as Python functions: the same names and arguments as on the command line.

This is the one place where stages meet. Each function opens directories, hands them to one stage, and returns
what the command line prints with `--json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.bundles.packed import packing, unpacked
from clouds_deploy.console import progress
from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    from clouds_deploy.backends.options import Precision

SAM = "sam:"


def doctor() -> dict[str, Any]:
    """Say what is installed, what works, and the fix for what doesn't; see `doctor.examine`."""
    from clouds_deploy.doctor import examine

    return examine()


def data_check(root: str | Path, *, layout: str | None = None, split: str | None = None) -> dict[str, Any]:
    """Decode every file of a dataset and count; see `data.check.check`.

    Returns:
        `DataReport.to_dict()`; `bad_files` is empty when the dataset is sound.
    """
    from clouds_deploy.data.check import check

    with progress("checking", 1, "file") as advance:
        return check(Path(root), layout, split, lambda done, total: advance(done, total=total)).to_dict()


def train(
    recipe: str | Path,
    *,
    overrides: Sequence[str] = (),
    out: str | Path,
    resume: bool = False,
    init: str | Path | None = None,
) -> dict[str, Any]:
    """Train a segmenter on labelled images, or a promptable one (`sam_tiny`) on drawn scenes.

    See `training.segmenter.loop.train` and `training.sam.loop.train_sam`.

    Args:
        recipe: A shipped recipe's name, or a YAML file.
        overrides: `key=value` each.
        out: The run's folder.
        resume: Go on with the run there.
        init: Start a new run from this run's weights: a joint stage from its warm-up. A SAM's may be a file.
    """
    from clouds_deploy.config.shipped import is_sam_recipe, load_recipe, load_sam_recipe
    from clouds_deploy.refinement.build import online_refiner
    from clouds_deploy.training.processes import local_device
    from clouds_deploy.training.segmenter.loop import train as run

    if is_sam_recipe(str(recipe)):
        from clouds_deploy.training.sam.loop import train_sam

        made = load_sam_recipe(str(recipe), tuple(overrides))
        return train_sam(made, Path(out), resume=resume, init=Path(init) if init else None)
    resolved = load_recipe(str(recipe), tuple(overrides))
    start, mends = Path(init) if init else None, online_refiner(resolved, local_device())
    return run(resolved, Path(out), resume=resume, init=start, refine=mends)


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


def predict(
    model: str | Path,
    paths: Sequence[str | Path],
    *,
    out: str | Path,
    backend: str = "onnxruntime",
    overlays: bool = True,
    confidences: bool = False,
    shards: bool | None = None,
    runner: str = "local",
) -> dict[str, Any]:
    """Label images, folders of images and videos; see `inference.predict.predict_paths`. For tar shards and
    addresses (`s3://...`) `inference.predict_units.predict_units`.

    Args:
        model: A finished run, or a bundle.
        paths: What to label.
        out: The folder to make.
        backend: Bundles only: the runtime.
        overlays: Whether to draw overlays with a legend too.
        confidences: Whether to write how sure the labels are, too.
        shards: Whether to write tar shards; None writes them where shards are read.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """
    from clouds_deploy.jobs.units import is_spread

    if shards or runner != "local" or is_spread(paths, out):
        from clouds_deploy.inference.predict_units import PredictWork, predict_units
        from clouds_deploy.jobs.ray import load_runner

        work = PredictWork(unpacked(Path(model)), backend, overlays=overlays, confidences=confidences)
        return predict_units(work, paths, out, shards=shards, runner=load_runner(runner))
    from clouds_deploy.inference.predict import predict_paths
    from clouds_deploy.inference.segmenter import open_predictor

    predictor = open_predictor(unpacked(Path(model)), backend=backend)
    given = [Path(path) for path in paths]
    return predict_paths(predictor, given, Path(out), overlays=overlays, confidences=confidences)


def embed_classes(run: str | Path, classes: Sequence[Sequence[str]], *, out: str | Path) -> dict[str, Any]:
    """Write other classes for a text-headed run's bundles: the names, through the run's own CLIP.

    With the geometric ensemble, a class that shares a name with one of the training's counts CLIP's opinion
    as those do (`model.text.alpha`), any other as unseen ones do (`model.text.beta`).

    Args:
        run: The finished run that the bundle was exported from.
        classes: For each class its synonyms, the first of which becomes its name.
        out: The .npz file; give it to `BundleSegmenter(vocabulary=Vocabulary.load(out))`.

    Returns:
        `out`, `classes` and `width` of the vectors.

    Raises:
        CloudsError: The run has the linear head; a class has no name; there are more than 255;
            the text tower cannot be had, or its weights are random, so that nothing fits them.
    """
    from clouds_deploy.bundles.vocabulary import embed

    made = embed(Path(run), classes)
    made.save(Path(out))
    return {"out": str(out), "classes": list(made.names), "width": made.vectors.shape[-1]}


def refine(
    sam: str,
    *,
    images: str | Path,
    labels: str | Path,
    out: str | Path,
    overrides: Sequence[str] = (),
    weights: str | Path | None = None,
    mode: str = "robust",
    seed: int = 0,
    confidences: str | Path | None = None,
    batch: int = 8,
    overlays: int = 4,
    backend: str | None = None,
    precision: Precision = "f32",
    shards: bool | None = None,
    runner: str = "local",
) -> dict[str, Any]:
    """Mend pseudo-labels with a SAM; see `refinement.refine.refine_folder`, and `refine_units` for shards.

    Args:
        sam: A SAM's name, see `models.sam.build.load_sam`, or the folder of its bundle.
        images: Folder of images.
        labels: Their label PNGs.
        out: The folder to fill.
        overrides: `key=value` of `RefineConfig` each.
        weights: SAM's weight file, or `random`; None for those that the package has.
        mode: `robust` or `official`.
        seed: Of random points, and of random weights.
        confidences: Folder of the teacher's confidences.
        batch: Images that go to SAM together.
        overlays: Draw this many images before and after.
        backend: Bundles only: the runtime, ONNX Runtime by default.
        precision: `bf16` computes in bfloat16 (openvino).
        shards: Whether to write tar shards; None writes them where shards are read.
        runner: `local`, or `ray`: on all machines of a Ray cluster.
    """
    from clouds_deploy.config.joint import RefineConfig
    from clouds_deploy.config.parse import settings
    from clouds_deploy.jobs.units import is_spread
    from clouds_deploy.refinement.build import SamRefiner
    from clouds_deploy.refinement.refine import refine_folder

    config = settings(RefineConfig, (f"mode={mode}", f"seed={seed}", *overrides))
    make = SamRefiner(str(unpacked(Path(sam))), weights, config, backend, precision)
    given = [images, labels, *([confidences] if confidences else [])]
    if shards or runner != "local" or is_spread(given, out):
        from clouds_deploy.jobs.ray import load_runner
        from clouds_deploy.refinement.refine_units import RefineWork, refine_units

        work = RefineWork(make, labels, confidences=confidences, batch=batch, overlays=overlays)
        return refine_units(work, images, out, shards=shards, runner=load_runner(runner))
    folders = [Path(images), Path(labels), Path(out)]
    sure = Path(confidences) if confidences else None
    return refine_folder(make(), *folders, confidences=sure, batch=batch, overlays=overlays)


def import_checkpoint(
    checkpoint: str | Path, *, out: str | Path, recipe: str | Path | None = None, skip_backbone: bool = False
) -> dict[str, Any]:
    """Turn a checkpoint of CLOUDS, FC-CLIP or Mask2Former into a run; see `models.importing`.

    Args:
        checkpoint: The weight file.
        out: The run's folder.
        recipe: What it is a model of, when it is no published one: a shipped recipe's name, or a YAML file.
        skip_backbone: Import the head alone, over the recipe's backbone.
    """
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.models.importing import import_checkpoint as run

    resolved = None if recipe is None else load_recipe(str(recipe))
    return run(Path(checkpoint), Path(out), recipe=resolved, skip_backbone=skip_backbone)


def export(
    run: str | Path,
    *,
    out: str | Path,
    engines: Sequence[str] = ("onnxruntime", "openvino"),
    height: int | None = None,
    width: int | None = None,
    scores: bool = False,
    inference: str = "exact",
    images: str | Path | None = None,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    calibrate: str | Path | None = None,
    data: str | Path | None = None,
    layout: str | None = None,
    sms: Sequence[str] = (),
    batch: tuple[int, int, int] = (1, 1, 8),
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Export a run, or a SAM, to a bundle that passed its gates, a folder or one `.clouds` file.

    `sam:NAME` is a SAM, with `weights` as in `models.sam.build.load_sam`; see `export.sam_bundle.export_sam`.
    All else is a run, or with `weights="random"` a recipe, for a dry run; see `export.bundle.export`. `data`
    and `layout` name labelled images, as in `evaluate`, on which the mIoU that the graph loses is a gate too.

    Of `engines`, those that run on this machine prove the graph, and those in
    `backends.tensorrt.preflight.ENGINES` are built from it, see `EngineOptions`; where only such are named,
    ONNX Runtime proves it.
    """
    from clouds_deploy.backends.tensorrt.options import EngineOptions
    from clouds_deploy.backends.tensorrt.preflight import ENGINES
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.evaluation.datasets import labelled_source
    from clouds_deploy.export.bundle import export as make
    from clouds_deploy.models.clouds.store import random_run

    built = [name for name in engines if name in ENGINES]
    if sms and "tensorrt-rtx" not in built:
        raise CloudsError("--sm is for TensorRT-RTX", "add --engine tensorrt-rtx")
    builds = [EngineOptions(name, tuple(sms) if name != "tensorrt" else (), batch) for name in built]
    provers = tuple(name for name in engines if name not in ENGINES) or ("onnxruntime",)
    if str(run).startswith(SAM):
        from clouds_deploy.export.sam_bundle import export_named

        own = (height, width, scores, inference, int8, calibrate, data, layout)
        if own != (None, None, False, "exact", False, None, None, None):
            words = "--height, --width, --scores, --inference, --int8, --calibrate, --data and --layout"
            hint = f"leave them out: {run} has its own size, and no classes"
            raise CloudsError(f"{words} are for segmenters", hint)
        name = str(run).removeprefix(SAM)
        kinds = {"fp16": fp16, "bf16": bf16}
        with packing(Path(out)) as place:
            made = export_named(name, weights, place, engines=provers, images=images, builds=builds, **kinds)
        return {**made, "out": str(out)}
    if weights not in (None, "random") or (weights and Path(run).is_dir()):
        hint = "leave it out; or give sam:NAME, or a recipe's name with --weights random for a dry run"
        raise CloudsError("--weights is for SAMs: a run has its own", hint)
    untrained = random_run(load_recipe(str(run))) if weights else nullcontext(Path(run))
    with packing(Path(out)) as place, untrained as opened:
        made = make(
            opened,
            place,
            engines=provers,
            height=height,
            width=width,
            scores=scores,
            inference=inference,
            images=Path(images) if images else None,
            fp16=fp16,
            bf16=bf16,
            int8=int8,
            calibrate=Path(calibrate) if calibrate else None,
            task=None if data is None and layout is None else labelled_source(opened, data, layout),
            builds=builds,
        )
    return {**made, "out": str(out)}


def selftest(
    bundle: str | Path,
    *,
    backends: Sequence[str] = (),
    device: str = "cpu",
    precision: Precision = "f32",
) -> dict[str, Any]:
    """Run a bundle's reference inputs on this machine; see `inference.selftest.selftest`."""
    from clouds_deploy.inference.selftest import selftest as run

    return run(unpacked(Path(bundle)), tuple(backends), device=device, precision=precision)


def bench(
    bundles: Sequence[str | Path],
    *,
    out: str | Path,
    suite: str = "default",
    backends: Sequence[str] | None = None,
    batch: int = 1,
    seconds: float | None = None,
    rounds: int | None = None,
    against: str | Path | None = None,
    scaling: Sequence[int] | None = None,
    prompts: Sequence[int] | None = None,
    stages: bool | None = None,
    weights: str | Path | None = None,
) -> dict[str, Any]:
    """Time every backend on the same images in the same run; see `bench.suites.bench`."""
    from clouds_deploy.bench.growth import SAM, SEGMENTER
    from clouds_deploy.bench.suites import bench as run

    return run(
        [unpacked(Path(b)) for b in bundles],
        out=Path(out),
        suite=suite,
        backends=backends,
        batch=batch,
        seconds=seconds,
        rounds=rounds,
        against=Path(against) if against else None,
        scaling=scaling,
        prompts=prompts,
        stages=stages,
        weights=weights,
        growths=SEGMENTER | SAM,
    )
