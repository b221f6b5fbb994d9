"""Refinement of a folder against the way the authors' code goes about it.

    python benchmarks/refine_throughput.py --model sam_tiny --out benchmarks/results/refine_throughput.json
    python benchmarks/refine_throughput.py --model vit_b --images 3 --rounds 3

The peer handles one image at a time: `SamPredictor.set_torch_image`, `predict_torch`, numpy afterwards
(`tests/parity/authors_refinement.py`). Both sides read images and label PNGs from disk and write label PNGs,
follow the official rules, share weights, ask for the same points, and run in PyTorch without lower precision.
Images are drawn streets; a label map is the truth, its borders moved and parts of it renamed.
Rounds are interleaved; a ratio is the median of the rounds' ratios with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import ndimage

sys.path.insert(0, str(Path(__file__).parent.parent))

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.data.images import read_image, read_label_ids, write_png
from clouds_deploy.data.streets import render
from clouds_deploy.models.sam.build import load_sam
from clouds_deploy.refinement.pairs import find_pairs
from clouds_deploy.refinement.pipeline import refine_folder
from clouds_deploy.refinement.prompts import full_masks
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.runtime.sam import torch_sam
from clouds_deploy.self_training import RefineConfig
from clouds_deploy.torchvision_compat import ensure_torchvision
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
    given = parser.parse_args()
    ensure_torchvision()
    from segment_anything import SamPredictor

    torch.manual_seed(0)
    model = load_sam(given.model, given.weights)
    config = RefineConfig(mode="official", min_area=600)
    refiner = Refiner(torch_sam(model), config)
    predictor = SamPredictor(model.sam)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        draw_streets(root, given.images, given.size)

        def theirs() -> None:
            for pair in find_pairs(root / "images", root / "labels"):
                assert pair.labels is not None
                random = np.random.default_rng([config.seed, zlib.crc32(pair.name.encode())])
                image, labels = read_image(pair.image), read_label_ids(pair.labels)
                refined = authors_refinement.refine(predictor, image, labels, config, random)
                write_png(root / "theirs" / f"{pair.name}.png", refined)

        def ours() -> None:
            shutil.rmtree(root / "ours", ignore_errors=True)
            refine_folder(
                refiner, root / "images", root / "labels", root / "ours", batch=given.batch, overlays=0
            )

        timings = measure({PEER: theirs, OURS: ours}, warmup=1, rounds=given.rounds, seconds=0.1)
        against = ratio(timings[PEER], timings[OURS])
        result = {
            "weights": model.source,
            "image_size": model.image_size,
            "images": given.images,
            "size": list(given.size),
            "threads": torch.get_num_threads(),
            "images_per_second": {name: 1e3 * given.images / t.percentile(50) for name, t in timings.items()},
            "ratio": against.value,
            "ratio_low": against.low,
            "ratio_high": against.high,
            **compare(root, refiner, predictor, config),
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


def draw_streets(root: Path, count: int, size: tuple[int, int]) -> None:
    """Fill `images` and `labels` below a folder."""
    for index in range(count):
        scene = render("photo", 6161, index, *size)
        random = np.random.default_rng(index)
        shifted = ndimage.shift(scene.labels, random.integers(-4, 5, 2), order=0, mode="nearest")
        holes = ndimage.zoom(random.random((size[0] // 32, size[1] // 32)), 32, order=1, grid_mode=True)
        labels = np.where(holes > 0.85, random.integers(0, 19), shifted).astype(np.uint8)
        write_png(root / "images" / f"{index:04}.png", scene.image)
        write_png(root / "labels" / f"{index:04}.png", labels)


@torch.no_grad()
def compare(root: Path, refiner: Refiner, predictor: Any, config: RefineConfig) -> dict[str, Any]:
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
                    == read_label_ids(root / "ours" / "labels" / f"{pair.name}.png")
                )
            )
        )
        plan = refiner.plan(labels, key=zlib.crc32(pair.name.encode()))
        if not plan.components:
            continue
        mine = full_masks(refiner.sam, refiner.propose([image], [plan])[0], plan.size)
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
        "rules": config.model_dump(mode="json", exclude={"robust"}),
    }


if __name__ == "__main__":
    main()
