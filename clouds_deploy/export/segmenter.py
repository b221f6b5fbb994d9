"""A segmenter as the subject of an export: its graph, its reference in PyTorch, its gates and its facts."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.markup import escape
from typing_extensions import override

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.backends.backends import GRAPH_BACKENDS
from clouds_deploy.backends.session import FixedInputs, Session
from clouds_deploy.backends.tensorrt.shapes import Shapes, graph_shapes
from clouds_deploy.bundles.bundle import GRAPH, KIND, SEGMENTER, SOURCE
from clouds_deploy.bundles.tensors import Array, GraphSpec, TensorSpec
from clouds_deploy.bundles.vocabulary import FILE as VOCABULARY_FILE
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.export import ExportConfig, ExportOptions, HalfConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.config.shipped import load_export_recipe
from clouds_deploy.console import busy, warn
from clouds_deploy.data.images import list_images, passed_over, tell_passed_over
from clouds_deploy.data.layouts.content import is_label_map
from clouds_deploy.errors import CloudsError, nearest, shortened
from clouds_deploy.evaluation.datasets import labelled_source
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.export.bisect import explain
from clouds_deploy.export.flops import flops_by_type
from clouds_deploy.export.gates import (
    BATCH,
    FP32,
    Gate,
    Tolerance,
    closeness,
    flops_gate,
    read_images,
    share_gate,
    street_images,
)
from clouds_deploy.export.half import HALVES, Typed, to_half
from clouds_deploy.export.int8 import INT8, Quantized, evenly, quantize
from clouds_deploy.export.subject import Subject
from clouds_deploy.export.trace import Exported, drop_scores, full_float32, save, to_onnx
from clouds_deploy.inference.agreement import label_agreement, run_batched
from clouds_deploy.inference.letterbox import fit
from clouds_deploy.labels import CITYSCAPES
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.names import INPUT, LABELS, SCORES, SHARE, VOCABULARY
from clouds_deploy.models.clouds.scores import Inference
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import FROZEN, RECIPE, TRAINED, load_run

if TYPE_CHECKING:
    import onnx_ir as ir

    from clouds_deploy.data.sources import Source

REFERENCE_IMAGES = 4
"""Images packed with the bundle, for its self-test."""
SAMPLES = 8
"""Images that are run to find values that overflow in a lower precision."""
FULL = "with_scores"
"""Name of the graph that the gates ask for scores, where the shipped one gives none."""
TORCH = "torch"


class SegmenterSubject(Subject):
    """A finished run to export; see `Subject`.

    Args:
        run: Its folder; it is only read.
        options: Of `export`.
        device: Where PyTorch computes.

    Raises:
        CloudsError: The run does not hold, or an option does not fit it.
    """

    kind = KIND
    what = "the network"
    weights = "backbone_weights"
    summary = ("height", "width", "backbone_weights")
    limits: ExportConfig

    def __init__(self, run: Path, options: ExportOptions, device: str) -> None:
        if options.inference not in ("exact", "fast"):
            raise CloudsError(
                f"there is no inference `{options.inference}`", nearest(options.inference, ("exact", "fast"))
            )
        if options.int8 != (options.calibrate is not None):
            raise CloudsError(
                "INT8 takes its ranges from images, and nothing else does",
                "give --int8 and --calibrate FOLDER together, or neither",
            )
        self.run, self.options, self.device = run, options, device
        self.inference: Inference = "exact" if options.inference == "exact" else "fast"
        recipe, self.segmenter = load_run(run)
        self.limits = _limits(recipe.export, options)
        self.recipe = recipe.model_copy(update={"export": self.limits})
        self.extra = {n: v.numpy() for n, v in SegmenterGraph(self.segmenter).extra_inputs().items()}
        self.classes = recipe.data.classes
        self.spec = graph_spec(self.limits, options.scores, self.extra, self.classes.count)
        self.facts = bundle_facts(run, self.recipe, self.segmenter, self.inference, self.spec)
        street = street_images(self.limits.height, self.limits.width)
        own = None if options.images is None else self._fitted(options.images)
        self.images = street if own is None else np.concatenate([street, own])
        self.calibration = None if options.calibrate is None else self._calibration(options.calibrate)
        self.task: Source | None = None
        if options.data is not None or options.layout is not None:
            self.task = labelled_source(run, options.data, options.layout)

    @override
    def metadata(self) -> dict[str, str]:
        keys = ("classes", "palette", "mean_color", "inference", "precision", "run_sha256", "backbone")
        values = {key: self.facts[key] for key in (*keys, "backbone_weights")}
        if self.classes != CITYSCAPES:
            values["label_set"] = self.facts["label_set"]
        return {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}

    @override
    def manifest(self) -> dict[str, Any]:
        config = self.recipe.model_dump(mode="json")
        return {"inputs": {"run": self.facts["run_sha256"]}, "config": config, "seed": self.recipe.seed}

    @override
    def trace(self) -> dict[str, Exported]:
        size = self.limits.height, self.limits.width
        return {SEGMENTER: to_onnx(self.segmenter, *size, inference=self.inference)}

    @override
    def files(self, models: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
        full = models[SEGMENTER]
        return {SEGMENTER: full} if self.options.scores else {SEGMENTER: drop_scores(full), FULL: full}

    @override
    def compute_reference(self) -> None:
        self.expected = reference(self.segmenter, self.images, self.inference, self.device)

    @override
    def reference(self) -> dict[str, Array]:
        kept = (LABELS, SCORES) if self.options.scores else (LABELS,)
        arrays = {"image": self.images, **{name: self.expected[name] for name in kept}}
        return {name: array[:REFERENCE_IMAGES] for name, array in arrays.items()}

    @override
    def prove(
        self, engine: str, folder: Path, precision: str, label: str, *, rounded: bool = False
    ) -> list[Gate]:
        limits, right = self.limits.limits(precision), self.expected
        detail = f"{len(self.images)} images, {len(np.unique(right[LABELS]))} classes"
        if rounded:
            detail = f"{len(self.images)} images, every {HALVES[precision].word} tensor rounded, float32 sums"
        with self._opened(folder / GRAPH, engine) as session:
            found = run_batched(session, self.images, self.batches())
            gates = label_gates(label, found[LABELS], right[LABELS], limits.label_agreement, detail)
            if not rounded and self.batches() > 1:
                gates += batch_gates(label, session, self.images[: self.batches()], limits.batch_agreement)
        if SCORES not in found and self.engines:
            return gates  # an engine that gives labels only
        if SCORES not in found:
            with self._opened(folder / f"{FULL}.onnx", engine) as session:
                found = run_batched(session, self.images, BATCH)
        tolerance = Tolerance(limits.max_score_error, limits.relative_error, limits.cosine)
        return gates + closeness(label, "score", found[SCORES], right[SCORES], tolerance, detail)

    @contextmanager
    def _opened(self, graph: Path, engine: str) -> Iterator[Session]:
        session = FixedInputs(self.open(graph, engine), self.extra)
        try:
            yield session
        finally:
            session.close()

    @override
    def lower(self, models: Mapping[str, ir.Model], precision: str) -> dict[str, Typed | Quantized]:
        model = models[SEGMENTER]
        made: Typed | Quantized
        if precision == INT8:
            assert self.calibration is not None
            made = quantize(model, self.limits.int8, self.calibration, self.extra)
        else:
            section: HalfConfig = getattr(self.limits, precision)
            # a user's own images, where there are any, are the last ones
            samples = [{INPUT: image[None], **self.extra} for image in self.images[-SAMPLES:]]
            made = to_half(model, section.islands, samples, HALVES[precision])
        agreement = self.limits.limits(precision).label_agreement
        self.facts |= {"precision": precision, "label_agreement": agreement, "typing": made.to_json()}
        return {SEGMENTER: made}

    @override
    def precision_gates(self, folder: Path, precision: str) -> list[Gate]:
        what, only = ("backbone", self.limits.int8.nodes) if precision == INT8 else ("graph", "")
        limit = self.limits.flops(precision)
        return [flops_gate(folder / GRAPH, limit, what, precision=precision, only=only)]

    @override
    def measure(self, folder: Path, engines: Sequence[str], precision: str) -> list[Gate]:
        if len(np.unique(self.expected[LABELS])) < 2:
            warn("PyTorch gives all test images one class: equal labels prove little, the scores must do")
        if self.task is None:
            return []
        suffix = "" if precision == FP32 else f" {precision}"
        limit = self.limits.limits(precision).miou_drop
        with busy("measuring mIoU with PyTorch and without"):
            return self._task_gates(folder / GRAPH, {f"{e}{suffix}": e for e in engines}, limit)

    @override
    def flops(self, folder: Path) -> dict[str, Any]:
        return flops_by_type(folder / GRAPH)

    @override
    def profiles(self, batch: tuple[int, int, int]) -> dict[str, Shapes]:
        vocabulary = {name: array.shape for name, array in self.extra.items()}
        return graph_shapes({SEGMENTER: self.spec}, self.limits.engine, batch, vocabulary)

    @override
    def explain(self, gate: Gate, *, folder: Path, original: Mapping[str, ir.Model] | None, out: Path) -> str:
        engine = gate.engine.split()[0]
        if engine not in GRAPH_BACKENDS:
            return "the gate is about the file, not about what it computes"
        graph = folder / (GRAPH if self.options.scores else f"{FULL}.onnx")
        feeds = {INPUT: self.images[:1], **self.extra}
        if original is None:
            return explain(engine, graph, graph, feeds, out)
        with Scratch() as temporary:
            path = temporary / GRAPH
            save(original[SEGMENTER], path, {})
            return explain(engine, graph, path, feeds, out)

    @override
    def pack(self, folder: Path) -> None:
        if self.extra:
            vectors = self.extra[VOCABULARY]
            share = self.extra.get(SHARE, np.zeros(len(vectors), np.float32))
            Vocabulary(self.classes.names, vectors, share).save(folder / VOCABULARY_FILE)
        target = folder / SOURCE
        target.mkdir()
        for name in (RECIPE, FROZEN, TRAINED):
            try:
                os.link(self.run / name, target / name)  # the run's own bytes, where the disk allows it
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                    raise
                shutil.copyfile(self.run / name, target / name)

    def _calibration(self, images: Path | Sequence[Path]) -> Array:
        """Evenly spaced images of those given, as the recipe wants them.

        Raises:
            CloudsError: There are none, or all are label maps.
        """
        given = [images] if isinstance(images, Path) else list(images)
        listed = list_images(given)
        paths = [path for path in listed if not is_label_map(path)]
        if not paths:
            raise CloudsError(
                f"--calibrate {given[0]} holds label maps, such as {listed[0]}, and no photographs",
                "give the images that they belong to",
            )
        tell_passed_over(over := passed_over(given))
        photographs = set(paths)
        left = [path for path in listed if path not in photographs]
        if left:
            names = shortened([path.name for path in left])
            warn(escape(f"{len(left)} of {len(listed)} files are label maps, left out: {names}"))
        numbers = evenly(np.arange(len(paths)), self.limits.int8.images)
        self.choices = {
            "calibration": {
                "images": len(numbers),
                "label_maps": [str(path) for path in left],
                "passed_over": [str(path) for path in over],
            }
        }
        return self._fitted([paths[number] for number in numbers])

    def _fitted(self, images: Path | Sequence[Path]) -> Array:
        """A user's images, letterboxed to the graph's size."""
        size, (red, green, blue) = (self.limits.height, self.limits.width), self.facts["mean_color"]
        return np.stack([fit(image, *size, (red, green, blue))[0] for image in read_images(images)])

    def _task_gates(self, graph: Path, engines: Mapping[str, str], limit: float) -> list[Gate]:
        """Compares the mIoU of a graph with PyTorch's, both on letterboxed images.

        Args:
            graph: The graph that is shipped.
            engines: The backends to run it on, by what the gates call them.
            limit: Points of mIoU that may be lost.

        Raises:
            CloudsError: There are no images, or one has no labels.
        """
        source = self.task
        if source is None or len(source) == 0:
            raise CloudsError("there are no images to measure mIoU on", "check --data and --layout")
        size, (red, green, blue) = (self.limits.height, self.limits.width), self.facts["mean_color"]
        matrices = {name: ConfusionMatrix(self.classes.count) for name in (TORCH, *engines)}
        with ExitStack() as stack:
            opened = {n: stack.enter_context(self._opened(graph, engine)) for n, engine in engines.items()}
            for index in range(len(source)):
                image, truth = source.load(index)
                if truth is None:
                    raise CloudsError(f"{source.name(index)} has no labels", "give a split that has them")
                fitted, box = fit(image, *size, (red, green, blue))
                right = reference(self.segmenter, fitted[None], self.inference, self.device)
                maps = {TORCH: right[LABELS][0]}
                maps |= {
                    name: session.run({INPUT: fitted[None]})[LABELS][0] for name, session in opened.items()
                }
                for name, labels in maps.items():
                    matrices[name].update(box.restore(labels), truth)
        best = 100 * matrices[TORCH].miou()
        return [task_gate(name, best, 100 * matrices[name].miou(), limit, len(source)) for name in engines]


def _limits(recipe: ExportConfig, options: ExportOptions) -> ExportConfig:
    """The run's export section, below the keys of `--recipe`, below the size that was asked for."""
    if options.recipe is not None:
        recipe = load_export_recipe(options.recipe, recipe)
    size = {name: getattr(options, name) for name in ("height", "width")}
    for name, value in size.items():
        if value is not None and (value <= 0 or value % 32):
            raise CloudsError(f"{name} {value} is not a multiple of 32", "choose one that is")
    return recipe.model_copy(update={name: value for name, value in size.items() if value is not None})


def bundle_facts(
    run: Path, recipe: Recipe, segmenter: Segmenter, inference: Inference, spec: GraphSpec
) -> dict[str, Any]:
    """What `bundle.json` says before the graph is made: inputs and outputs, classes, where all is from."""
    backbone, limits, classes = segmenter.backbone, recipe.export, recipe.data.classes
    return {
        **spec.to_json(),
        "height": limits.height,
        "width": limits.width,
        "classes": list(classes.names),
        "palette": [list(c.color) for c in classes.classes],
        "label_set": classes.to_tree(),
        "mean_color": [round(float(v)) for v in backbone.mean.flatten()],
        "inference": inference,
        "precision": FP32,
        "label_agreement": limits.label_agreement,
        "run": run.name,
        "run_sha256": sha256(run / MANIFEST),
        "backbone": recipe.model.backbone.name,
        "backbone_weights": backbone.weights,
        "random_weights": backbone.weights == "random",
        "recipe": recipe.model_dump(mode="json"),
    }


def graph_spec(limits: ExportConfig, scores: bool, extra: Mapping[str, Array], count: int) -> GraphSpec:
    """Inputs and outputs of the graph.

    Args:
        limits: Its size.
        scores: Whether it gives class scores too.
        extra: What it takes beside images, by input name.
        count: Number of classes.
    """
    size = limits.height, limits.width
    inputs = [TensorSpec(INPUT, "uint8", (None, *size, 3))]
    if extra:
        inputs.append(TensorSpec(VOCABULARY, "float32", (None, None, extra[VOCABULARY].shape[2])))
    if SHARE in extra:
        inputs.append(TensorSpec(SHARE, "float32", (None,)))
    outputs = [TensorSpec(LABELS, "uint8", (None, *size))]
    if scores:
        classes = None if extra else count
        outputs.append(TensorSpec(SCORES, "float32", (None, classes, size[0] // 4, size[1] // 4)))
    return GraphSpec(tuple(inputs), tuple(outputs))


def reference(
    segmenter: Segmenter, images: Array, inference: Inference, device: str = "cpu"
) -> dict[str, Array]:
    """What PyTorch computes in eager mode, image by image.

    Args:
        segmenter: The trained model; left as it is.
        images: (N, H, W, 3) uint8.
        inference: As in `Segmenter.scores`.
        device: Where it computes.

    Returns:
        `labels` (N, H, W) uint8 and `scores` (N, C, H/4, W/4) float32.
    """
    import torch

    with _as_in_the_papers(segmenter, device), torch.inference_mode():
        graph = SegmenterGraph(segmenter, inference=inference, scores=True)
        rows = [graph(torch.tensor(image[None], device=device)) for image in images]
    labels, scores = (np.concatenate([row[i].cpu().numpy() for row in rows]) for i in (0, 1))
    return {LABELS: labels, SCORES: scores}


@contextmanager
def _as_in_the_papers(segmenter: Segmenter, device: str) -> Iterator[None]:
    """Has a model compute in full float32 on a device, with deformable attention by `grid_sample`."""
    from clouds_deploy.models.clouds.deformable_attention import DeformableAttention

    layers = [m for m in segmenter.modules() if isinstance(m, DeformableAttention)]
    before, training = [layer.form for layer in layers], segmenter.training
    home = next(segmenter.parameters()).device
    segmenter.set_form("grid_sample").eval().to(device)
    try:
        with full_float32():
            yield
    finally:
        segmenter.train(training).to(home)
        for layer, form in zip(layers, before, strict=True):
            layer.form = form


def label_gates(label: str, labels: Array, right: Array, limit: float, detail: str) -> list[Gate]:
    """The gates of the share of equal labels, over all images and of the worst one.

    Args:
        label: What the gates call the backend.
        labels: (N, H, W), the backend's.
        right: (N, H, W), PyTorch's.
        limit: Least share; the worst image may differ ten times as much.
        detail: What was compared.
    """
    worst = min(label_agreement(a, b) for a, b in zip(labels, right, strict=True))
    return [
        share_gate(label, "labels equal", label_agreement(labels, right), limit, detail),
        share_gate(label, "labels equal, worst image", worst, 1 - 10 * (1 - limit), f"the worst of {detail}"),
    ]


def batch_gates(label: str, session: Session, images: Array, limit: float) -> list[Gate]:
    """The gates of labels that must not depend on the other rows of a batch.

    On some engines they do (NVIDIA/TensorRT #4813, #4853). Kernels may round differently for another batch
    size, so the comparison across sizes allows a few pixels; equal rows of one call allow none.
    """
    images = images[:BATCH]
    rows = min(3, len(images))
    one = np.concatenate([session.run({INPUT: image[None]})[LABELS] for image in images])
    same = session.run({INPUT: np.repeat(images[:1], rows, axis=0)})[LABELS]
    equal = min(label_agreement(row, same[0]) for row in same)
    many = session.run({INPUT: images})[LABELS]
    order = np.roll(np.arange(len(many)), 1)
    shuffled = session.run({INPUT: np.ascontiguousarray(images[order])})[LABELS]
    size = f"N = {len(many)}"
    return [
        share_gate(
            label,
            "equal rows stay equal",
            equal,
            1.0,
            f"one image {('one', 'two', 'three')[rows - 1]} times in a batch",
        ),
        share_gate(label, "batch 1 = batch N", label_agreement(many, one), limit, size),
        share_gate(label, "shuffled rows", label_agreement(shuffled, many[order]), limit, size),
    ]


def task_gate(label: str, right: float, found: float, limit: float, images: int) -> Gate:
    """The gate of the points of mIoU that a backend loses against PyTorch; a gain passes."""
    lost = right - found
    shown, detail = f"{found:.2f} of {right:.2f}", f"{images} images, {lost:.3f} points lost"
    return Gate(label, "mIoU kept", lost, limit, lost <= limit, detail, shown, f"{limit:g} less")
