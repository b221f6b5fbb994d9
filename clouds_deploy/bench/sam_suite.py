"""A SAM's encoder and decoder, against `segment_anything` in PyTorch eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.bench.entries import REFERENCE, flops, gather, judge, say_wrong
from clouds_deploy.bench.plan import Plan
from clouds_deploy.bench.scaling import scale
from clouds_deploy.bench.timing import measure
from clouds_deploy.console import busy, say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.sam.build import RANDOM, load_seeded
from clouds_deploy.runtime.agreement import mask_overlaps
from clouds_deploy.runtime.backends import BF16
from clouds_deploy.runtime.sam_bundle import SamBundle, open_part
from clouds_deploy.runtime.session import Array

Feeds = dict[str, Array]
Run = Callable[[Feeds], Feeds]


def bench_sam(bundle: SamBundle, plan: Plan, weights: str | Path | None = None) -> list[dict[str, Any]]:
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
        for name in names:
            if name == REFERENCE:
                found = _official(bundle, weights)
                if found is None:
                    continue
                encoders[name], decoders[name] = found
                devices[name] = "cpu"
                continue
            encoder, decoder = (open_part(bundle, part, name) for part in ("encoder", "decoder"))
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
        images = {name: _tile(arrays[name], plan.batch) for name in ("image", "size")}
        jobs = [("encoder", plan.batch, encoders, images)]
        jobs += [("decoder", count, decoders, _prompts(arrays, count)) for count in plan.prompts]
        found_entries = []
        for part, rows, runs, feeds in jobs:
            with busy(f"timing {part} in turns"):
                candidates = {name: partial(run, feeds) for name, run in runs.items()}
                timings = measure(candidates, rounds=plan.rounds, seconds=plan.seconds)
            operations = {name: flops(bundle.facts, rows, part) for name in runs}
            results = gather(list(runs), timings, agreements, devices, rows, operations, plan.peak)
            for entry in results:
                if not entry["passed"]:
                    say_wrong(entry, bundle.path.name)
            found_entries.append(_entry(bundle, part, rows, results, len(arrays["image"])))
        if plan.scaling:
            calls = {name: partial(_decode_call, run, arrays) for name, run in decoders.items()}
            found_entries[-1]["scaling"] = scale("prompts", plan.scaling, calls, plan)
    return found_entries


def _decode_call(run: Run, arrays: Mapping[str, Array], count: int) -> Callable[[], object]:
    return partial(run, _prompts(arrays, count))


def _official(bundle: SamBundle, weights: str | Path | None) -> tuple[Run, Run] | None:
    """Give the official modules as functions of the graphs' inputs; None where the weights are missing."""
    digest = bundle.facts.get("weights_sha256")
    if bundle.weights == RANDOM:
        weights = RANDOM
    elif bundle.weights.startswith("file") and weights is None:
        warn(f"PyTorch is left out: {bundle.path.name} was made from a {bundle.weights}; give --weights")
        return None
    model = load_seeded(bundle.name, weights)
    if model.sha256 != digest:
        raise CloudsError(f"{weights} is not what {bundle.path} was made from", "give the same file")
    import torch

    sam = model.sam

    def encode(feeds: Feeds) -> Feeds:
        with torch.inference_mode():
            pixels = torch.from_numpy(feeds["image"]).permute(0, 3, 1, 2)
            kept = (pixels.float() - sam.pixel_mean) / sam.pixel_std
            for row, (height, width) in zip(kept, feeds["size"], strict=True):
                row[:, height:] = 0
                row[:, :, width:] = 0
            return {"image_embeddings": sam.image_encoder(kept).numpy()}

    def decode(feeds: Feeds) -> Feeds:
        index, points, kinds = (feeds[n] for n in ("image_index", "point_coords", "point_labels"))
        masks = np.empty(
            (len(index), 3, *(4 * d for d in sam.prompt_encoder.image_embedding_size)), np.float32
        )
        scores = np.empty((len(index), 3), np.float32)
        boxed = kinds[:, -1] >= 2
        with torch.inference_mode():
            places = sam.prompt_encoder.get_dense_pe()
            for image, box in sorted({(int(i), bool(b)) for i, b in zip(index, boxed, strict=True)}):
                rows = np.flatnonzero((index == image) & (boxed == box))
                where, kind = (torch.from_numpy(np.ascontiguousarray(a[rows])) for a in (points, kinds))
                keep = where.shape[1] - (2 if box else 1)
                sparse, dense = sam.prompt_encoder(
                    points=(where[:, :keep], kind[:, :keep]),
                    boxes=where[:, keep:].reshape(-1, 4) if box else None,
                    masks=None,
                )
                low, guessed = sam.mask_decoder(
                    image_embeddings=torch.from_numpy(feeds["image_embeddings"][image : image + 1]),
                    image_pe=places,
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=True,
                )
                masks[rows], scores[rows] = low.numpy(), guessed.numpy()
        return {"masks": masks, "iou_predictions": scores}

    return encode, decode


def _agreement(arrays: Mapping[str, Array], encode: Run, decode: Run) -> float:
    """Give the mean IoU of the packed prompts' masks, through both graphs."""
    rows = [
        encode({name: arrays[name][i : i + 1] for name in ("image", "size")})["image_embeddings"]
        for i in range(len(arrays["image"]))
    ]
    prompts = {name: arrays[name] for name in ("image_index", "point_coords", "point_labels")}
    masks = decode({"image_embeddings": np.concatenate(rows), **prompts})["masks"]
    overlaps, _ = mask_overlaps(masks, arrays["masks"], arrays["iou_predictions"])
    return float(overlaps.mean())


def _tile(array: Array, rows: int) -> Array:
    return np.ascontiguousarray(np.resize(array, (rows, *array.shape[1:])))


def _prompts(arrays: Mapping[str, Array], count: int) -> Feeds:
    """Give so many prompts by points of one image."""
    pointed = arrays["point_labels"][:, -1] < 2
    return {
        "image_embeddings": np.ascontiguousarray(arrays["image_embeddings"][:1]),
        "image_index": np.zeros(count, np.int64),
        "point_coords": _tile(arrays["point_coords"][pointed], count),
        "point_labels": _tile(arrays["point_labels"][pointed], count),
    }


def _entry(
    bundle: SamBundle, part: str, rows: int, results: list[dict[str, Any]], images: int
) -> dict[str, Any]:
    side = bundle.image_size
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
