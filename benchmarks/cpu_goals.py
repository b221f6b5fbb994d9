"""The large models on a CPU against the official formulation in PyTorch eager fp32, all in one run.

    python benchmarks/cpu_goals.py --run runs/gta --out benchmarks/results/cpu_goals.json
    python benchmarks/cpu_goals.py --only encoder --rounds 5 --profile

`segmenter`: `gta_convnext_l` at 512 x 1024, batch 1, bytes to labels. The peer is what the authors' code
does: timm's ConvNeXt as it is, grid_sample, masks of full size after every layer, 100 masks resized to the
image before the sum. Without `--run` the weights are random and spread out a little, and labels say less.
`encoder`: SAM ViT-B at 1024, bytes to embeddings, against `segment_anything`; weights are random, relative
positions too, and masks are compared after its own decoder. Candidates are interleaved (`bench.timing`); a
ratio is the median over the rounds with its 95 % bootstrap interval. `of peak` divides the operations that
PyTorch counts for the peer by what a large product of the same type reaches here. `--profile` adds where
OpenVINO spends its time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from head import FullMasks

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.options import Options
from clouds_deploy.bench.machine import matmul_peak
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.export.sam import encoder_to_onnx, make_case, reference
from clouds_deploy.export.trace import save, to_onnx
from clouds_deploy.inference.agreement import mask_overlaps
from clouds_deploy.models.backbones import build_backbone
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.names import LABELS
from clouds_deploy.models.clouds.scores import class_scores
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import load_run
from clouds_deploy.models.sam.build import load_seeded
from clouds_deploy.models.sam.encoder import SamEncoder
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, INDEX, MASKS, POINTS, SCORES, SIZE
from clouds_deploy.models.sam.names import LABELS as KINDS
from clouds_deploy.models.sam.official import official_embeddings, official_masks
from clouds_deploy.streets import render

Call = Callable[[Any], Any]
PEER = "official formulation, PyTorch eager fp32"
HEIGHT, WIDTH = 512, 1024
BACKENDS = ("onnxruntime", "openvino", "openvino-bf16")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file; the other part's figures in it stay")
    parser.add_argument("--only", choices=["segmenter", "encoder"])
    parser.add_argument("--run", type=Path, help="a run of gta_convnext_l, for labels that mean something")
    parser.add_argument("--graphs", type=Path, help="keep the exported graphs here, and take them from here")
    parser.add_argument("--images", type=int, default=4, help="synthetic streets whose labels are compared")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    result: dict[str, Any] = {}
    if given.out and given.out.is_file():
        import json

        result = json.loads(given.out.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        graphs = given.graphs or Path(folder)
        graphs.mkdir(parents=True, exist_ok=True)
        for name, part in (("segmenter", segmenter), ("encoder", encoder)):
            if given.only in (None, name):
                result[name] = {"environment": environment(), **part(given, graphs)}
                if given.out:
                    given.out.parent.mkdir(parents=True, exist_ok=True)
                    write_json(given.out, result)


def published_taps(trunk: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """Run timm's own modules, as the authors' code does."""
    maps = [trunk.stem(image)]
    for stage in trunk.stages:
        maps.append(stage(maps[-1]))
    return maps[1:]


def large_model(run: Path | None) -> Segmenter:
    """Give the model of a run, or a random one whose queries do not all look alike."""
    if run is not None:
        return load_run(run)[1].eval().requires_grad_(False)
    recipe = load_recipe("gta_convnext_l", ("model.backbone.weights=random",))
    torch.manual_seed(0)
    model = Segmenter(recipe.model, build_backbone(recipe.model.backbone)).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "sampling_offsets.weight" in name or "attention_weights.weight" in name:
            parameter.normal_(std=0.2)
        if name == "mask_decoder.classify.weight":
            parameter.normal_()
        if name in ("mask_decoder.query_features", "pixel_decoder.mask_features.weight"):
            parameter.mul_(4)
    return model


def segmenter(given: argparse.Namespace, graphs: Path) -> dict[str, Any]:
    """Bytes to labels."""
    model = large_model(given.run)
    graph = SegmenterGraph(model)
    images = np.stack([render("photo", 4242, i, HEIGHT, WIDTH).image for i in range(given.images)])
    path = graphs / "segmenter.onnx"
    if not path.is_file():
        exported = to_onnx(model, HEIGHT, WIDTH)
        from clouds_deploy.export.trace import drop_scores

        save(drop_scores(exported.model), path, {})

    def official(image: np.ndarray) -> np.ndarray:
        model.set_form("grid_sample")
        backbone, decoder = model.backbone, model.mask_decoder
        with torch.inference_mode():
            pixels = backbone.normalize(torch.from_numpy(image).permute(0, 3, 1, 2).float())
            features, maps = model.pixel_decoder(published_taps(backbone.trunk, pixels))
            predicted = FullMasks.forward(decoder, features, maps, every_layer=True)[-1]  # type: ignore[arg-type]
            return class_scores(predicted, (HEIGHT, WIDTH)).argmax(1).to(torch.uint8).numpy()

    def ours(half: bool) -> Call:
        def call(image: np.ndarray) -> np.ndarray:
            model.set_form("sparse")
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
                return graph(torch.from_numpy(image))[0].numpy()

        return call

    calls: dict[str, Call] = {PEER: official, "torch": ours(False), "torch-bf16": ours(True)}
    for name in BACKENDS:
        session = open_graph(path, name, Options(batch=1))
        calls[name] = lambda image, s=session: s.run({"image": image})[LABELS]
    truth = np.concatenate([official(image[None]) for image in images])
    same = {
        name: [
            float((call(image[None])[0] == right).mean()) for image, right in zip(images, truth, strict=True)
        ]
        for name, call in calls.items()
    }
    rows = table(calls, images[:1], given.rounds)
    for name, row in rows["candidates"].items():
        row |= {"label_agreement": float(np.mean(same[name])), "label_agreement_lowest": min(same[name])}
    return {
        "weights": str(model.backbone.weights) + (", head trained" if given.run else ", all random"),
        "image": [HEIGHT, WIDTH],
        "images_compared": len(images),
        "classes_seen": len(np.unique(truth)),
        **rows,
        **({"profile": profile(path, {"image": images[:1]})} if given.profile else {}),
    }


def encoder(given: argparse.Namespace, graphs: Path) -> dict[str, Any]:
    """Bytes to embeddings; both forms of attention, for each has its engine."""
    sam = load_seeded("vit_b", "random").sam
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sam.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    side = sam.image_encoder.img_size
    case = make_case([render("photo", 4242, i, side * 3 // 4, side).image for i in range(1)], side)
    feeds = {name: array[:1] for name, array in case.encoder.items()}

    def official(given: dict[str, np.ndarray]) -> np.ndarray:
        return official_embeddings(sam, given[IMAGE], given[SIZE])

    calls: dict[str, Call] = {PEER: official}
    for form in ("bias", "channels"):
        module = SamEncoder(sam, window_form=form, global_form=form)  # type: ignore[arg-type]
        half = form == "channels"  # in float32 the bias is faster in PyTorch, in bfloat16 the channels
        calls[f"torch{'-bf16' if half else ''}, {form}"] = _torch(module, half)
        path = graphs / f"encoder_{form}.onnx"
        if not path.is_file():
            save(encoder_to_onnx(sam, attention=form).model, path, {})  # type: ignore[arg-type]
        for name in BACKENDS[1:]:
            session = open_graph(path, name, Options(batch=1))
            calls[f"{name}, {form}"] = lambda given, s=session: s.run(given)[EMBEDDINGS]
    right = reference(sam, case)
    prompts = [case.prompts[name] for name in (INDEX, POINTS, KINDS)]
    quality = {}
    for name, call in calls.items():
        found = call(feeds)
        masks = official_masks(sam, found, *prompts)[0]
        _, overlaps, sizable = mask_overlaps(masks, right[MASKS], right[SCORES])
        difference = np.linalg.norm(found - right[EMBEDDINGS]) / np.linalg.norm(right[EMBEDDINGS])
        quality[name] = {
            "mask_iou": float(overlaps.mean()),
            "mask_iou_lowest": float(overlaps[sizable].min()) if sizable.any() else None,
            "prompts": len(overlaps),
            "sizable": int(sizable.sum()),
            "relative_l2_error": float(difference),
        }
    rows = table(calls, feeds, given.rounds)
    for name, row in rows["candidates"].items():
        row |= quality[name]
    found = {"weights": "random, relative positions too", "side": side, **rows}
    if given.profile:
        found["profile"] = profile(graphs / "encoder_bias.onnx", feeds)
    return found


def _torch(module: SamEncoder, half: bool) -> Call:
    def call(given: dict[str, np.ndarray]) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            image, size = torch.from_numpy(given[IMAGE]), torch.from_numpy(given[SIZE])
            return module(image, size).float().numpy()  # type: ignore[no-any-return]

    return call


def table(calls: dict[str, Call], feeds: Any, rounds: int) -> dict[str, Any]:
    """Times the candidates interleaved, beside the machine's peak, measured before and after."""
    with FlopCounterMode(display=False) as counter:
        calls[PEER](feeds)
    operations = counter.get_total_flops()
    peaks = [matmul_peak(1.0)]
    bound = {name: (lambda c=call: c(feeds)) for name, call in calls.items()}
    timings = measure(bound, warmup=1, rounds=rounds, seconds=0.1)
    peaks.append(matmul_peak(1.0))
    peak = {kind: max(found[kind] for found in peaks) for kind in peaks[0]}
    rows = {}
    for name, timing in timings.items():
        against = ratio(timings[PEER], timing)
        speed = operations / timing.percentile(50) / 1e6
        share = speed / peak["bfloat16" if "bf16" in name else "float32"]
        rows[name] = {
            **timing.to_json(),
            "ratio": against.value,
            "ratio_low": against.low,
            "ratio_high": against.high,
            "gflops": speed,
            "of_peak": share,
        }
        spread = f"{against.value:5.2f}x ({against.low:.2f} to {against.high:.2f})"
        print(f"{timing.percentile(50):7.0f} ms  {spread}  {100 * share:3.0f} % of peak  {name}", flush=True)
    return {
        "threads": torch.get_num_threads(),
        "gflop": operations / 1e9,
        "peak_gflops": peak,
        "candidates": rows,
    }


def profile(path: Path, feeds: dict[str, np.ndarray]) -> dict[str, Any]:
    """Say where OpenVINO spends its milliseconds, by kind of operation and kernel."""
    from openvino import Core

    from clouds_deploy.backends.openvino.attention import cut_attention
    from clouds_deploy.backends.openvino.sums import sum_gathered_rows

    core, found = Core(), {}
    for precision in ("bf16", "f32"):
        model = core.read_model(str(path))
        model.reshape({name: list(array.shape) for name, array in feeds.items()})
        sum_gathered_rows(model)
        cut_attention(model)
        settings = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "PERF_COUNT": "YES",
        }
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        spent: Counter[str] = Counter()
        for turn in range(4):
            request.infer(feeds)
            if turn:
                for part in request.profiling_info:
                    kind = f"{part.node_type} {part.exec_type}"
                    spent[kind] += part.real_time.total_seconds() * 1e3 / 3
        found[precision] = {"total_ms": sum(spent.values()), "largest_ms": dict(spent.most_common(14))}
    return found


if __name__ == "__main__":
    main()
