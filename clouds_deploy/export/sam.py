"""A SAM as the subject of an export: encoder and decoder, their reference, gates and facts.

What is right is computed by `segment_anything`'s own modules in PyTorch, one image and one prompt at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from typing_extensions import override

from clouds_deploy import seeds
from clouds_deploy.backends.session import Session
from clouds_deploy.backends.tensorrt.shapes import Shapes, graph_shapes
from clouds_deploy.bundles.bundle import DECODER, ENCODER, SAM_KIND
from clouds_deploy.bundles.sam_specs import sam_specs
from clouds_deploy.bundles.tensors import Array, GraphSpec
from clouds_deploy.config.export import ExportOptions, SamEngineConfig, SamExportConfig, SamLimits
from clouds_deploy.config.shipped import load_export_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.flops import flops_by_type
from clouds_deploy.export.gates import (
    FP32,
    Gate,
    Tolerance,
    closeness,
    error_gate,
    flops_gate,
    read_images,
    share_gate,
    street_images,
)
from clouds_deploy.export.half import HALVES, Typed, to_half
from clouds_deploy.export.subject import Subject
from clouds_deploy.export.trace import Exported, frozen_copy, full_float32, trace
from clouds_deploy.inference.agreement import mask_overlaps
from clouds_deploy.inference.sam import Picture, fill_square
from clouds_deploy.models.sam.build import SamModel
from clouds_deploy.models.sam.names import (
    EMBEDDINGS,
    IMAGE,
    INDEX,
    LABELS,
    MASKS,
    POINTS,
    RANDOM,
    SCORES,
    SIZE,
)
from clouds_deploy.models.sam.official import official_embeddings, official_masks
from clouds_deploy.models.sam.vit_encoder import AttentionForm

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST_BATCH = 64
LARGEST_PROMPTS = 4096
LARGEST_POINTS = 64
FREE: Mapping[str, Sequence[int]] = {LABELS: (0, 1), POINTS: (0, 1)}
"""Inputs with free axes beside the batch: the points of a prompt."""
SEED = 20240618
POINT_PROMPTS = ((1, -1, -1, -1), (1, -1, -1, -1), (1, 1, 0, -1))
"""Labels of an image's prompts by points; the last, a point that is none, stands in for the box."""
BOX_PROMPTS = ((1, -1, 2, 3),)


class SamSubject(Subject):
    """A SAM to export; see `Subject`.

    Args:
        model: It is not changed.
        options: Of `export`.
        device: Where PyTorch computes.

    Raises:
        CloudsError: An option is for segmenters, or there are no images.
    """

    kind = SAM_KIND
    what = "the encoder and the decoder"
    weights = "weights"
    summary = ("image_size",)
    free = FREE
    limits: SamExportConfig

    def __init__(self, model: SamModel, options: ExportOptions, device: str) -> None:
        fields = type(options).model_fields
        wrong = [name for name in options.segmenters_only if getattr(options, name) != fields[name].default]
        if wrong:
            raise CloudsError(
                f"{', '.join(f'--{name}' for name in wrong)}: for segmenters only",
                f"leave it out: sam:{model.name} has its own size, and no classes",
            )
        self.model, self.options, self.device = model, options, device
        self.limits = SamExportConfig.model_validate({})
        if options.recipe is not None:
            self.limits = load_export_recipe(options.recipe, self.limits)
        self.specs = sam_specs(model.sam)
        self.case = make_case(_pictures(model.image_size, options.images), model.image_size)
        self.images = self.case.encoder[IMAGE]
        self.facts: dict[str, Any] = {
            "model": "sam",
            "name": model.name,
            "image_size": model.image_size,
            "graphs": graph_facts(self.specs),
            "precision": FP32,
            "attention": "bias",
            "weights": model.source,
            "weights_sha256": model.sha256,
            "random_weights": model.source == RANDOM,
            "limits": self.limits.model_dump(mode="json"),
        }

    @override
    def metadata(self) -> dict[str, str]:
        facts = self.facts
        return {
            "sam": facts["name"],
            "precision": facts["precision"],
            "weights": facts["weights"],
            "weights_sha256": facts["weights_sha256"] or "",
        }

    @override
    def manifest(self) -> dict[str, Any]:
        return {"inputs": {"weights": self.model.sha256}, "config": self.facts["limits"]}

    @override
    def trace(self) -> dict[str, Exported]:
        sam = self.model.sam
        return {ENCODER: encoder_to_onnx(sam), DECODER: decoder_to_onnx(sam)}

    @override
    def compute_reference(self) -> None:
        self.expected = reference(self.model.sam, self.case, self.device)

    @override
    def reference(self) -> dict[str, Array]:
        return {**self.case.encoder, **self.case.prompts, **self.expected}

    @override
    def prove(
        self, engine: str, folder: Path, precision: str, label: str, *, rounded: bool = False
    ) -> list[Gate]:
        limits, case, right = self.limits.limits(precision), self.case, self.expected
        session = self.open(folder / f"{ENCODER}.onnx", engine)
        try:
            embeddings, gates = encoder_gates(
                label, session, case, limits, batched=not rounded and self.batches() > 1
            )
        finally:
            session.close()
        tolerance = Tolerance(limits.error, limits.relative_error, 1 - limits.relative_error)
        count = f"{len(embeddings)} images"
        gates += closeness(label, "embedding", embeddings, right[EMBEDDINGS], tolerance, count)
        session = self.open(folder / f"{DECODER}.onnx", engine)
        try:
            found = session.run(case.decoder(right[EMBEDDINGS]))
            whole = session.run(case.decoder(embeddings))
            if not rounded:
                gates += prompt_gates(label, session, case, embeddings, whole, limits)
        finally:
            session.close()
        count = f"{len(found[MASKS])} prompts on {count}, the reference's embeddings"
        gates += closeness(label, "mask", found[MASKS], right[MASKS], tolerance, count)
        gates += closeness(label, "guessed IoU", found[SCORES], right[SCORES], tolerance, count)
        return gates + mask_gates(label, whole, right, limits)

    @override
    def lower(self, models: Mapping[str, ir.Model], precision: str) -> dict[str, Typed]:
        samples = {
            ENCODER: {name: array[-1:] for name, array in self.case.encoder.items()},
            DECODER: self.case.decoder(self.expected[EMBEDDINGS]),
        }
        kind, islands = HALVES[precision], self.limits.islands
        made = {part: to_half(model, islands, [samples[part]], kind) for part, model in models.items()}
        typing = {part: typed.to_json() for part, typed in made.items()}
        self.facts |= {"precision": precision, "typing": typing}
        return made

    @override
    def precision_gates(self, folder: Path, precision: str) -> list[Gate]:
        limit, sizes = self.limits.flops(precision), likely_sizes(self.limits.engine)
        return [
            flops_gate(folder / f"{part}.onnx", limit, part, sizes, precision=precision)
            for part in self.specs
        ]

    @override
    def flops(self, folder: Path) -> dict[str, Any]:
        sizes = likely_sizes(self.limits.engine) | {"prompts": 1}
        return {part: flops_by_type(folder / f"{part}.onnx", sizes) for part in self.specs}

    @override
    def profiles(self, batch: tuple[int, int, int]) -> dict[str, Shapes]:
        return graph_shapes(self.specs, self.limits.engine, batch)


def graph_facts(specs: Mapping[str, GraphSpec]) -> dict[str, Any]:
    """What `bundle.json` says of both graphs."""
    return {part: {"file": f"{part}.onnx", **spec.to_json()} for part, spec in specs.items()}


def likely_sizes(engine: SamEngineConfig) -> dict[str, int]:
    """Sizes of the graphs' free axes at which operations are counted: one image, the likely prompts."""
    return {"batch": 1, "images": 1, "prompts": engine.prompts[1], "points": engine.points[1]}


def _pictures(side: int, images: Path | Sequence[Path] | None) -> list[Array]:
    """Synthetic streets, one wide and one high, and the user's images."""
    streets = [*street_images(side // 2, side, 1), *street_images(side, side * 3 // 4, 1, seed=7)]
    return streets if images is None else streets + read_images(images)


def encoder_to_onnx(sam: Any, *, attention: AttentionForm = "bias") -> Exported:
    """Exports the image encoder.

    Args:
        sam: A `segment_anything.modeling.Sam`; not changed.
        attention: How relative positions enter the ViTs' attention; the other encoders have none.

    Returns:
        `image` (B, S, S, 3) uint8, `size` (B, 2) int32 -> `image_embeddings` (B, C, h, w) float32.

    Raises:
        CloudsError: The exporter failed.
    """
    import torch

    from clouds_deploy.models.sam.encoder import SamEncoder

    encoder = SamEncoder(frozen_copy(sam), window_form=attention, global_form=attention)
    side = encoder.side
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8), torch.full((2, 2), side, dtype=torch.int32)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    return trace(encoder, example, [IMAGE, SIZE], [EMBEDDINGS], {IMAGE: {0: batch}, SIZE: {0: batch}})


def decoder_to_onnx(sam: Any) -> Exported:
    """Exports the prompt encoder and the mask decoder.

    Args:
        sam: A `segment_anything.modeling.Sam`; not changed.

    Returns:
        `image_embeddings` (B, C, h, w), `image_index` (P,) int64, `point_coords` (P, N, 2), `point_labels`
        (P, N) -> `masks` (P, 3, 4h, 4w), `iou_predictions` (P, 3), all float32 but the index.

    Raises:
        CloudsError: The exporter failed.
    """
    import torch

    from clouds_deploy.models.sam.decoder import SamDecoder

    prompter = sam.prompt_encoder
    shape = int(prompter.embed_dim), *(int(d) for d in prompter.image_embedding_size)
    images, prompts, points = (
        torch.export.Dim(name, min=1, max=largest)
        for name, largest in (
            ("images", LARGEST_BATCH),
            ("prompts", LARGEST_PROMPTS),
            ("points", LARGEST_POINTS),
        )
    )
    example = torch.zeros(2, *shape), torch.tensor([0, 1, 1]), torch.zeros(3, 4, 2), torch.ones(3, 4)
    free = {
        EMBEDDINGS: {0: images},
        INDEX: {0: prompts},
        POINTS: {0: prompts, 1: points},
        LABELS: {0: prompts, 1: points},
    }
    return trace(SamDecoder(frozen_copy(sam)), example, list(free), [MASKS, SCORES], free)


@dataclass(frozen=True)
class Case:
    """Inputs of both graphs.

    Attributes:
        encoder: `image` and `size`.
        prompts: `image_index`, `point_coords` and `point_labels`.
    """

    encoder: dict[str, Array]
    prompts: dict[str, Array]

    def decoder(self, embeddings: Array) -> dict[str, Array]:
        """The decoder's inputs."""
        return {EMBEDDINGS: embeddings, **self.prompts}


def make_case(pictures: Sequence[Picture], side: int) -> Case:
    """Pictures fitted to the encoder's square, and prompts for each: single points, several points, a box.

    Args:
        pictures: Each (H, W, 3) uint8 RGB.
        side: Of the square, in pixels.
    """
    random = seeds.generator(SEED)
    squares = np.zeros((len(pictures), side, side, 3), np.uint8)
    sizes = np.array([fill_square(s, p) for s, p in zip(squares, pictures, strict=True)], np.int32)
    index, points, labels = [], [], []
    for kinds in (POINT_PROMPTS, BOX_PROMPTS):  # the reference takes the two kinds apart
        for image, (rows, columns) in enumerate(sizes):
            for kind in kinds:
                places = random.uniform(0.05, 0.95, (4, 2)) * (columns, rows)
                places[2:] = np.sort(places[2:], axis=0)
                index.append(image)
                points.append(np.where(np.array(kind)[:, None] < 0, 0, places))
                labels.append(kind)
    return Case(
        {IMAGE: squares, SIZE: sizes},
        {
            INDEX: np.array(index, np.int64),
            POINTS: np.array(points, np.float32),
            LABELS: np.array(labels, np.float32),
        },
    )


def reference(sam: Any, case: Case, device: str = "cpu") -> dict[str, Array]:
    """What the official modules compute, one image and one prompt at a time.

    Args:
        sam: A `segment_anything.modeling.Sam`.
        case: The inputs.
        device: Where they compute; the model comes back to the CPU.

    Returns:
        `image_embeddings`, `masks` (low-resolution logits), `iou_predictions`.

    Source: `SamPredictor.set_torch_image` and `predict_torch(multimask_output=True)` of `segment_anything`.
    """
    squares, sizes = case.encoder[IMAGE], case.encoder[SIZE]
    prompts = [case.prompts[name] for name in (INDEX, POINTS, LABELS)]
    sam.to(device)
    try:
        with full_float32():
            each = [slice(i, i + 1) for i in range(len(squares))]
            embeddings = np.concatenate([official_embeddings(sam, squares[i], sizes[i]) for i in each])
            found = [
                official_masks(sam, embeddings, *(array[i : i + 1] for array in prompts))
                for i in range(len(prompts[0]))
            ]
    finally:
        sam.to("cpu")
    masks, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    return {EMBEDDINGS: embeddings, MASKS: masks, SCORES: scores}


def encoder_gates(
    label: str, session: Session, case: Case, limits: SamLimits, *, batched: bool
) -> tuple[Array, list[Gate]]:
    """Embeds images one by one; with the gates that an embedding does not depend on the rest of a batch.

    Args:
        label: What the gates call the backend.
        session: The encoder.
        case: The inputs.
        limits: The tolerances.
        batched: Whether to look at batches; no gates without.

    Returns:
        The embeddings, and the gates.
    """
    feeds = case.encoder
    rows = [{name: array[i : i + 1] for name, array in feeds.items()} for i in range(len(feeds[IMAGE]))]
    one = np.concatenate([session.run(row)[EMBEDDINGS] for row in rows])
    if not batched:
        return one, []
    twice = session.run({name: np.repeat(array[:1], 2, axis=0) for name, array in feeds.items()})[EMBEDDINGS]
    many = session.run(feeds)[EMBEDDINGS]
    return one, [
        error_gate(label, "equal rows stay equal", _apart(twice[1], twice[0]), 0.0, "one image twice"),
        error_gate(label, "batch 1 = batch N", _apart(many, one), limits.error, f"N = {len(many)}"),
    ]


def prompt_gates(
    label: str, session: Session, case: Case, embeddings: Array, found: Mapping[str, Array], limits: SamLimits
) -> list[Gate]:
    """The gates that a prompt's masks do not depend on the prompts beside it, nor on the images.

    Args:
        label: What the gates call the backend.
        session: The decoder.
        case: The inputs.
        embeddings: Its own, of all images.
        found: What it gave for them.
        limits: The tolerances.
    """
    order = np.arange(len(found[MASKS]))[::-1]
    shuffled = {name: np.ascontiguousarray(array[order]) for name, array in case.prompts.items()}
    again = session.run({EMBEDDINGS: embeddings, **shuffled})[MASKS][order]
    last = len(embeddings) - 1
    mine = np.flatnonzero(case.prompts[INDEX] == last)[:1]
    alone = {name: array[mine] for name, array in case.prompts.items()} | {INDEX: np.zeros(1, np.int64)}
    single = session.run({EMBEDDINGS: np.ascontiguousarray(embeddings[last:]), **alone})[MASKS]
    count = f"{len(order)} prompts"
    return [
        error_gate(label, "shuffled prompts", _apart(again, found[MASKS]), limits.error, count),
        error_gate(
            label, "1 prompt = N prompts", _apart(single, found[MASKS][mine]), limits.error, f"of {count}"
        ),
    ]


def _apart(found: Array, expected: Array) -> float:
    """The largest difference, as a share of the largest number."""
    largest = max(float(np.abs(expected).max()), 1e-12)
    return float(np.abs(found.astype(np.float64) - expected).max()) / largest


def mask_gates(
    label: str, found: Mapping[str, Array], expected: Mapping[str, Array], limits: SamLimits
) -> list[Gate]:
    """The gates of the masks that both graphs give in a row, cut at zero.

    Args:
        label: What the gates call the backend.
        found: `masks`, from its own embeddings.
        expected: `masks` and `iou_predictions`.
        limits: The tolerances.
    """
    overall, overlaps, sizable = mask_overlaps(found[MASKS], expected[MASKS], expected[SCORES])
    count = f"{len(overlaps)} masks together, both graphs in a row"
    gates = [share_gate(label, "mask IoU", overall, limits.mask_iou, count)]
    if sizable.any():
        worst = float(overlaps[sizable].min())
        detail = f"of {int(sizable.sum())} masks that cover 1 % to 99 %"
        gates.append(share_gate(label, "mask IoU, worst", worst, limits.worst_mask_iou, detail))
    return gates
