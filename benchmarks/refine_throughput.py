"""Refinement of a folder against the way the authors' code goes about it.

    python benchmarks/refine_throughput.py --model sam_tiny --out benchmarks/results/refine_throughput.json
    python benchmarks/refine_throughput.py --model vit_b --weights random --images 3 --rounds 3 \
        --engine openvino --engine openvino-bf16

The peer handles one image at a time: `SamPredictor.set_torch_image`, `predict_torch`, numpy afterwards
(`tests/parity/authors_refinement.py`). Both sides read images and label PNGs from disk and write label PNGs,
follow the official rules, share weights, ask for the same points; `refine_folder` runs in PyTorch without
lower precision, and with each `--engine` on the exported graphs too. Random weights get random positions.
Images are synthetic streets; a label map is the truth, its borders moved and parts of it renamed.
Rounds are interleaved; a ratio is the median of the rounds' ratios with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.backends.backends import BF16, GRAPH_BACKENDS, open_graph
from clouds_deploy.backends.options import Options
from clouds_deploy.bench.growth import draw_folder
from clouds_deploy.bench.machine import matmul_peak
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.data.images import read_image, read_label_ids, write_png
from clouds_deploy.export.sam import decoder_to_onnx, encoder_to_onnx
from clouds_deploy.export.trace import save
from clouds_deploy.inference.sam import Sam, images_at_once, torch_sam
from clouds_deploy.models.libraries import library
from clouds_deploy.models.sam.build import SamModel, load_sam
from clouds_deploy.refinement.pairs import find_pairs
from clouds_deploy.refinement.prompts import each_mask
from clouds_deploy.refinement.refine import RefineWork, run_refine
from clouds_deploy.refinement.refiner import Refiner
from tests.parity import authors_refinement

PEER = "one image at a time, segment_anything.SamPredictor"
OURS = "refine_folder"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="JSON file; another model's figures in it stay")
    parser.add_argument("--model", default="sam_tiny")
    parser.add_argument("--weights", help="as of `refine`; random for large models here")
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 768), metavar=("H", "W"))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--engine", action="append", default=[], choices=[*GRAPH_BACKENDS, BF16])
    parser.add_argument("--graphs", type=Path, help="keep the exported graphs here, and take them from here")
    given = parser.parse_args()
    library("segment_anything")
    from segment_anything import SamPredictor

    torch.manual_seed(0)
    model = load_sam(given.model, given.weights)
    if given.weights == "random":
        for name, parameter in model.sam.named_parameters():
            if "rel_pos" in name or "pos_embed" in name:
                parameter.normal_(std=0.2)
    config = RefineConfig(mode="official", min_area=600)
    refiners = {OURS: Refiner(torch_sam(model), config)}
    predictor = SamPredictor(model.sam)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        refiners |= {
            f"{OURS}, {name}": Refiner(engine_sam(model, name, given.graphs or root), config)
            for name in given.engine
        }
        draw_folder(root, given.images, tuple(given.size))

        def theirs() -> None:
            for pair in find_pairs(root / "images", root / "labels"):
                assert pair.labels is not None
                random = np.random.default_rng([config.seed, zlib.crc32(pair.name.encode())])
                image, labels = read_image(pair.image), read_label_ids(pair.labels)
                refined = authors_refinement.refine(predictor, image, labels, config, random)
                write_png(root / "theirs" / f"{pair.name}.png", refined)

        def ours(name: str) -> None:
            out = root / name
            shutil.rmtree(out, ignore_errors=True)
            work = RefineWork(lambda: refiners[name], root / "labels", batch=given.batch, overlays=0)
            run_refine(work, root / "images", out)

        calls = {PEER: theirs, **{name: partial(ours, name) for name in refiners}}
        timings = measure(calls, warmup=1, rounds=given.rounds, seconds=0.1)
        result = {
            "weights": model.source,
            "image_size": model.image_size,
            "images": given.images,
            "size": list(given.size),
            "threads": torch.get_num_threads(),
            "peak_gflops": matmul_peak(),
            "rules": config.model_dump(mode="json", exclude={"robust"}),
            "images_per_second": {name: 1e3 * given.images / t.percentile(50) for name, t in timings.items()},
        }
        for name, refiner in refiners.items():
            against = ratio(timings[PEER], timings[name])
            result[name] = {
                "ratio": against.value,
                "ratio_low": against.low,
                "ratio_high": against.high,
                **compare(root, root / name, refiner, predictor),
            }
    print(result)
    if given.out:
        before = {}
        if given.out.is_file():
            import json

            before = json.loads(given.out.read_text(encoding="utf-8"))
        before[given.model] = {"environment": environment(), **result}
        given.out.parent.mkdir(parents=True, exist_ok=True)
        write_json(given.out, before)


def engine_sam(model: SamModel, backend: str, graphs: Path) -> Sam:
    """Export both graphs, unless they are there, and open them as a bundle would be."""
    encoder, decoder = (graphs / f"{model.name}_{part}.onnx" for part in ("encoder", "decoder"))
    if not decoder.is_file():
        graphs.mkdir(parents=True, exist_ok=True)
        save(encoder_to_onnx(model.sam).model, encoder, {})
        save(decoder_to_onnx(model.sam).model, decoder, {})
    alone = Options(batch=1 if images_at_once(model.image_size) == 1 else None)
    return Sam(open_graph(encoder, backend, alone), open_graph(decoder, backend), model.name)


@torch.no_grad()
def compare(root: Path, out: Path, refiner: Refiner, predictor: Any) -> dict[str, Any]:
    """Compare what both sides wrote, and the masks of every prompt."""
    overlaps: list[float] = []
    same: list[float] = []
    for pair in find_pairs(root / "images", root / "labels"):
        assert pair.labels is not None
        image, labels = read_image(pair.image), read_label_ids(pair.labels)
        same.append(
            float(
                np.mean(
                    read_label_ids(root / "theirs" / f"{pair.name}.png")
                    == read_label_ids(out / "labels" / f"{pair.name}.png")
                )
            )
        )
        plan = refiner.plan(labels, key=zlib.crc32(pair.name.encode()))
        if not plan.components:
            continue
        mine = np.stack(list(each_mask(refiner.sam, refiner.propose([image], [plan])[0], plan.size)))
        resized = predictor.transform.apply_image(image)
        predictor.set_torch_image(torch.as_tensor(resized).permute(2, 0, 1)[None].contiguous(), labels.shape)
        places = torch.as_tensor(predictor.transform.apply_coords(plan.points, labels.shape)).float()
        masks, ratings, _ = predictor.predict_torch(
            places, torch.from_numpy(plan.labels), multimask_output=True
        )
        best = masks[torch.arange(len(masks)), ratings.argmax(1)].numpy()
        union = (mine | best).sum((1, 2))
        overlaps += ((mine & best).sum((1, 2)) / np.maximum(union, 1))[union > 0].tolist()
    return {
        "prompts": len(overlaps),
        "mask_iou": float(np.mean(overlaps)),
        "mask_iou_lowest": float(np.min(overlaps)),
        "label_agreement": float(np.mean(same)),
    }


if __name__ == "__main__":
    main()
