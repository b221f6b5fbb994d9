"""A SAM's encoder and decoder on every backend, against `segment_anything` in eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import BF16, open_session
from clouds_deploy.bench.entries import REFERENCE, flops, judge
from clouds_deploy.bench.graph import Feeds, Runner, announce, describe, runner, time_graph
from clouds_deploy.bench.plan import Plan, repeated
from clouds_deploy.bench.scaling import scale
from clouds_deploy.bundles.bundle import DECODER, ENCODER, Bundle
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.console import busy, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.agreement import mask_overlaps
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, INDEX, LABELS, MASKS, POINTS, SCORES, SIZE


@dataclass(frozen=True)
class _Job:
    """A graph to time: which, the rows of a call, its shape for the report, its inputs."""

    part: str
    rows: int
    shape: str
    feeds: Feeds


def bench_sam(bundle: Bundle, plan: Plan) -> list[dict[str, Any]]:
    """Times a SAM's two graphs.

    `torch` is what people run: `segment_anything`'s own modules, eager. Its encoder takes the same bytes and
    its decoder the same embeddings as the graphs do.

    Args:
        bundle: The bundle.
        plan: How to time; its batch is the encoder's.

    Returns:
        For the encoder and for each number of prompts what `graph.describe` gives.

    Raises:
        CloudsError: A backend is not installed or cannot run; the weights are not the bundle's.
    """
    arrays, side = bundle.reference(), bundle.height
    with ExitStack() as stack:
        runners: dict[str, dict[str, Runner]] = {ENCODER: {}, DECODER: {}}
        for name in plan.suite.backends:
            if name == "torch-compile":
                continue
            for part, one in _open(bundle, name, plan, stack).items():
                runners[part][name] = one
        with busy("comparing masks"):
            agreements = {
                name: judge(
                    _agreement(arrays, runners[ENCODER][name], runners[DECODER][name]),
                    _limit(bundle, name),
                    name,
                    live=False,
                )
                for name in runners[ENCODER]
            }
        announce(bundle, runners[ENCODER], plan)
        images = {name: repeated(arrays[name], plan.batch) for name in (IMAGE, SIZE)}
        jobs = [_Job(ENCODER, plan.batch, f"{plan.batch}x{side}x{side}", images)]
        jobs += [_Job(DECODER, n, f"{n} prompts", _prompts(arrays, n)) for n in plan.suite.prompts]
        found = []
        for job in jobs:
            operations, parts = flops(bundle.facts, job.rows, job.part), job.part == ENCODER
            results = time_graph(
                runners[job.part], job.feeds, job.rows, agreements, operations, plan, parts=parts
            )
            name = f"{bundle.path.name} {job.part}"
            found.append(describe(bundle, name, job.shape, "mask IoU", results, len(arrays[IMAGE])))
        if plan.suite.scaling:
            calls = {name: partial(_decode, one, arrays) for name, one in runners[DECODER].items()}
            found[-1]["scaling"] = scale("prompts", plan.suite.scaling, calls, plan)
    return found


def _open(bundle: Bundle, backend: str, plan: Plan, stack: ExitStack) -> dict[str, Runner]:
    """Both graphs on a backend; none where PyTorch lacks the weights."""
    device = plan.device_of(backend)
    if backend == REFERENCE:
        return _official(bundle, plan, device)
    opened = {}
    for part, batch in ((ENCODER, plan.batch), (DECODER, None)):
        session = open_session(bundle, backend, part, device=device, batch=batch)
        stack.callback(session.close)
        opened[part] = runner(session)
    return opened


def _official(bundle: Bundle, plan: Plan, device: str) -> dict[str, Runner]:
    """The official modules as functions of the graphs' inputs; none where the weights are missing."""
    from clouds_deploy.models.sam.build import load_seeded
    from clouds_deploy.models.sam.names import RANDOM
    from clouds_deploy.models.sam.official import official_embeddings, official_masks

    weights = plan.weights
    if bundle.weights != RANDOM and bundle.weights.startswith("file") and weights is None:
        warn(f"PyTorch is left out: {bundle.path.name} was made from a {bundle.weights}; see --weights")
        return {}
    model = load_seeded(f"{bundle.name}@{bundle.height}", RANDOM if bundle.weights == RANDOM else weights)
    if model.sha256 != bundle.facts.get("weights_sha256"):
        raise CloudsError(
            f"{weights} is not the file that {bundle.path} was made from", "pass that file by --weights"
        )
    sam = model.sam.to(device)

    def encode(feeds: Feeds) -> dict[str, Array]:
        return {EMBEDDINGS: official_embeddings(sam, feeds[IMAGE], feeds[SIZE])}

    def decode(feeds: Feeds) -> dict[str, Array]:
        masks, scores = official_masks(sam, *(feeds[name] for name in (EMBEDDINGS, INDEX, POINTS, LABELS)))
        return {MASKS: masks, SCORES: scores}

    return {ENCODER: Runner(encode, device), DECODER: Runner(decode, device)}


def _limit(bundle: Bundle, backend: str) -> float:
    """The mask IoU that a backend must reach."""
    return bundle.limit("mask_iou", "bf16" if backend == BF16 else "fp32")


def _agreement(arrays: Mapping[str, Array], encoder: Runner, decoder: Runner) -> float:
    """The IoU of all packed prompts' masks together, through both graphs."""
    rows = [
        encoder.run({name: arrays[name][i : i + 1] for name in (IMAGE, SIZE)})[EMBEDDINGS]
        for i in range(len(arrays[IMAGE]))
    ]
    prompts = {name: arrays[name] for name in (INDEX, POINTS, LABELS)}
    masks = decoder.run({EMBEDDINGS: np.concatenate(rows), **prompts})[MASKS]
    return mask_overlaps(masks, arrays[MASKS], arrays[SCORES])[0]


def _decode(decoder: Runner, arrays: Mapping[str, Array], count: int) -> Callable[[], object]:
    return partial(decoder.run, _prompts(arrays, count))


def _prompts(arrays: Mapping[str, Array], count: int) -> dict[str, Array]:
    """As many prompts of points as asked for, all on one image."""
    pointed = arrays[LABELS][:, -1] < 2
    return {
        EMBEDDINGS: np.ascontiguousarray(arrays[EMBEDDINGS][:1]),
        INDEX: np.zeros(count, np.int64),
        POINTS: repeated(arrays[POINTS][pointed], count),
        LABELS: repeated(arrays[LABELS][pointed], count),
    }
