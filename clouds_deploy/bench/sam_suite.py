"""A SAM's encoder and decoder, against `segment_anything` in PyTorch eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.backends.backends import BF16
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import Session
from clouds_deploy.backends.tensorrt.preflight import ENGINES
from clouds_deploy.bench.entries import REFERENCE, flops, gather, judge, say_wrong
from clouds_deploy.bench.plan import Plan, repeated
from clouds_deploy.bench.scaling import scale
from clouds_deploy.bench.stages import time_stages
from clouds_deploy.bench.timing import measure
from clouds_deploy.bundles.bundle import DECODER, ENCODER, Bundle
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.console import busy, say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.agreement import mask_overlaps
from clouds_deploy.inference.open_sam import open_part
from clouds_deploy.models.sam.build import RANDOM, load_seeded
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, INDEX, LABELS, MASKS, POINTS, SCORES, SIZE
from clouds_deploy.models.sam.official import official_embeddings, official_masks

Feeds = dict[str, Array]
Run = Callable[[Feeds], Feeds]


def bench_sam(bundle: Bundle, plan: Plan, weights: str | Path | None = None) -> list[dict[str, Any]]:
    """Time a SAM's two graphs.

    `torch` is what people run: `segment_anything`'s own modules, eager. Its encoder takes the same bytes and
    its decoder the same embeddings as the graphs do.

    Args:
        bundle: The bundle.
        plan: How to time; its batch is the encoder's.
        weights: The weight file for PyTorch, where the bundle was made from one.

    Returns:
        For the encoder and for each number of prompts what `suites` gives for a segmenter.

    Raises:
        CloudsError: A backend is not installed or cannot run; the weights are not the bundle's.
    """
    arrays = bundle.reference()
    limits = bundle.facts["limits"]
    names = [name for name in plan.names if name != "torch-compile"]
    with ExitStack() as stack:
        encoders: dict[str, Run] = {}
        decoders: dict[str, Run] = {}
        devices = {}
        sessions: dict[str, Session] = {}
        for name in names:
            if name == REFERENCE:
                found = _official(bundle, weights)
                if found is None:
                    continue
                encoders[name], decoders[name] = found
                devices[name] = "cpu"
                continue
            fixed = None if name in ENGINES else Options(batch=plan.batch)
            encoder, decoder = open_part(bundle, ENCODER, name, fixed), open_part(bundle, DECODER, name)
            sessions[name] = encoder
            stack.callback(encoder.close)
            stack.callback(decoder.close)
            encoders[name], decoders[name] = encoder.run, decoder.run
            devices[name] = encoder.device
        agreements = {}
        with busy("comparing masks"):
            for name in encoders:
                low = name == BF16 or bundle.precision != "fp32"
                limit = limits["fp16" if low else "fp32"]["mask_iou"]
                agreements[name] = judge(
                    _agreement(arrays, encoders[name], decoders[name]), limit, name, False
                )
        say(f"  bench        {bundle.path.name}: {len(encoders)} backends, about {plan.seconds:g} s each")
        images = {name: repeated(arrays[name], plan.batch) for name in (IMAGE, SIZE)}
        jobs = [("encoder", plan.batch, encoders, images)]
        jobs += [("decoder", count, decoders, _prompts(arrays, count)) for count in plan.prompts]
        found_entries = []
        for part, rows, runs, feeds in jobs:
            with busy(f"timing {part} in turns"):
                candidates = {name: partial(run, feeds) for name, run in runs.items()}
                timings = measure(candidates, rounds=plan.rounds, seconds=plan.seconds)
            operations = {name: flops(bundle.facts, rows, part) for name in runs}
            results = gather(list(runs), timings, agreements, devices, rows, operations, plan.peak)
            if part == "encoder" and plan.stages:
                apart = time_stages(sessions, dict.fromkeys(sessions, feeds), plan)
                results = [entry | apart.get(entry["backend"], {}) for entry in results]
            for entry in results:
                if not entry["passed"]:
                    say_wrong(entry, bundle.path.name)
            found_entries.append(_entry(bundle, part, rows, results, len(arrays[IMAGE])))
        if plan.scaling:
            calls = {name: partial(_decode_call, run, arrays) for name, run in decoders.items()}
            found_entries[-1]["scaling"] = scale("prompts", plan.scaling, calls, plan)
    return found_entries


def _decode_call(run: Run, arrays: Mapping[str, Array], count: int) -> Callable[[], object]:
    return partial(run, _prompts(arrays, count))


def _official(bundle: Bundle, weights: str | Path | None) -> tuple[Run, Run] | None:
    """Give the official modules as functions of the graphs' inputs; None where the weights are missing."""
    digest = bundle.facts.get("weights_sha256")
    if bundle.weights == RANDOM:
        weights = RANDOM
    elif bundle.weights.startswith("file") and weights is None:
        warn(f"PyTorch is left out: {bundle.path.name} was made from a {bundle.weights}; give --weights")
        return None
    model = load_seeded(f"{bundle.name}@{bundle.height}", weights)
    if model.sha256 != digest:
        raise CloudsError(f"{weights} is not what {bundle.path} was made from", "give the same file")

    def encode(feeds: Feeds) -> Feeds:
        return {EMBEDDINGS: official_embeddings(model.sam, feeds[IMAGE], feeds[SIZE])}

    def decode(feeds: Feeds) -> Feeds:
        masks, scores = official_masks(
            model.sam, feeds[EMBEDDINGS], feeds[INDEX], feeds[POINTS], feeds[LABELS]
        )
        return {MASKS: masks, SCORES: scores}

    return encode, decode


def _agreement(arrays: Mapping[str, Array], encode: Run, decode: Run) -> float:
    """Give the IoU of all packed prompts' masks together, through both graphs."""
    rows = [
        encode({name: arrays[name][i : i + 1] for name in (IMAGE, SIZE)})[EMBEDDINGS]
        for i in range(len(arrays[IMAGE]))
    ]
    prompts = {name: arrays[name] for name in (INDEX, POINTS, LABELS)}
    masks = decode({EMBEDDINGS: np.concatenate(rows), **prompts})[MASKS]
    return mask_overlaps(masks, arrays[MASKS], arrays[SCORES])[0]


def _prompts(arrays: Mapping[str, Array], count: int) -> Feeds:
    """Give so many prompts by points of one image."""
    pointed = arrays[LABELS][:, -1] < 2
    return {
        EMBEDDINGS: np.ascontiguousarray(arrays[EMBEDDINGS][:1]),
        INDEX: np.zeros(count, np.int64),
        POINTS: repeated(arrays[POINTS][pointed], count),
        LABELS: repeated(arrays[LABELS][pointed], count),
    }


def _entry(
    bundle: Bundle, part: str, rows: int, results: list[dict[str, Any]], images: int
) -> dict[str, Any]:
    side = bundle.height
    return {
        "name": f"{bundle.path.name} {part}",
        "compared": "mask IoU",
        "path": str(bundle.path),
        "shape": f"{rows}x{side}x{side}" if part == "encoder" else f"{rows} prompts",
        "height": side,
        "width": side,
        "nodes": bundle.facts.get("nodes"),
        "graph_mib": bundle.facts.get("bytes", 0) / 2**20,
        "precision": bundle.precision,
        "backbone_weights": bundle.weights,
        "random_weights": bool(bundle.facts["random_weights"]),
        "failed_gates": [gate for gate in bundle.gates() if not gate["passed"]],
        "images": images,
        "classes_seen": None,
        "results": results,
    }
