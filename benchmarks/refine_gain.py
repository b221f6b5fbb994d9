"""What refinement does to pseudo-labels: mIoU against the truth before and after, by both rules.

    python benchmarks/refine_gain.py --run quickstart/run --out benchmarks/results/refine_gain.json

A model trained on synthetic `game` streets labels streets of `imagined` and `photo` that nobody trained on;
SAM refines the labels. A pixel that refinement leaves without a label can be counted in two ways: `wrong`, as
if it had a class of its own, and `left out`, as training with these labels would have it. Both are given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.backends.memory import kept_memory
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.config.parse import settings
from clouds_deploy.inference.sam import torch_sam
from clouds_deploy.labels import IGNORE, NUM_CLASSES
from clouds_deploy.models.clouds.scores import label_and_trust
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import load_run
from clouds_deploy.models.sam.build import load_sam
from clouds_deploy.refinement.refiner import Refiner
from clouds_deploy.streets import Scene, render

FIRST_SEED = 8800
ROWS = 128
MODES = ("official", "robust")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", type=Path, required=True, help="a segmenter trained on game streets only")
    parser.add_argument("--sam", default="sam_tiny")
    parser.add_argument("--weights", type=Path, help="SAM's; by default those of the package")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--scenes", type=int, default=40, help="of each seed and domain")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of RefineConfig")
    parser.add_argument("--no-confidence", action="store_true", help="labels alone, as from PNGs")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    recipe, model = load_run(given.run)
    sam = torch_sam(load_sam(given.sam, given.weights))
    refiners = {mode: Refiner(sam, settings(RefineConfig, (f"mode={mode}", *given.set))) for mode in MODES}
    report: dict[str, Any] = {
        "environment": environment(),
        "trained_on": recipe.data.domain,
        "sam": sam.describe(),
        "settings": {mode: refiner.config.model_dump(mode="json") for mode, refiner in refiners.items()},
        "scenes": given.scenes,
    }
    with kept_memory() as give_back:
        for domain in ("imagined", "photo"):
            rows = []
            for seed in range(FIRST_SEED, FIRST_SEED + given.seeds):
                scenes = [render(domain, seed, i, ROWS, 2 * ROWS) for i in range(given.scenes)]
                rows.append(one_seed(model, refiners, scenes, sure=not given.no_confidence))
                print(domain, seed, {k: round(v, 2) for k, v in rows[-1].items()}, flush=True)
                give_back()
            mean = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
            report[domain] = {"seeds": rows, "mean": mean}
            print(domain, "mean", {k: round(v, 2) for k, v in mean.items()}, flush=True)
    if given.out:
        write_json(given.out, report)


def one_seed(
    model: Segmenter, refiners: dict[str, Refiner], scenes: list[Scene], *, sure: bool
) -> dict[str, float]:
    """Label, refine and compare a set of scenes."""
    labels, trust = [], []
    for start in range(0, len(scenes), 8):
        batch = np.stack([scene.image for scene in scenes[start : start + 8]])
        with torch.inference_mode():
            scores = model.scores(torch.from_numpy(batch).permute(0, 3, 1, 2).float())
            found, confidence = label_and_trust(scores)
        labels += list(found.numpy())
        trust += list(confidence.numpy())
    truth = np.stack([scene.labels for scene in scenes])
    result = {"before": miou(np.stack(labels), truth, leave_out=False)}
    for mode, refiner in refiners.items():
        refined = refiner.refine([s.image for s in scenes], labels, trust if sure else None)
        maps = np.stack([r.labels for r in refined])
        result[f"{mode}, wrong"] = miou(maps, truth, leave_out=False)
        result[f"{mode}, left out"] = miou(maps, truth, leave_out=True)
        result[f"{mode}, unlabelled %"] = 100 * float((maps == IGNORE).mean())
        result[f"{mode}, masks taken %"] = (
            100 * sum(r.accepted for r in refined) / max(sum(r.prompted for r in refined), 1)
        )
    return result


def miou(maps: np.ndarray, truth: np.ndarray, *, leave_out: bool) -> float:
    """Give the mean IoU in percent over the classes that the truth holds."""
    guess = np.where(maps == IGNORE, NUM_CLASSES, maps).astype(np.int64)
    counted = (truth != IGNORE) & ~(leave_out & (maps == IGNORE))
    pairs = truth[counted].astype(np.int64) * (NUM_CLASSES + 1) + guess[counted]
    counts = np.bincount(pairs, minlength=NUM_CLASSES * (NUM_CLASSES + 1))
    counts = counts.reshape(NUM_CLASSES, NUM_CLASSES + 1)
    hits, found = np.diag(counts), counts.sum(1)
    union = found + counts[:, :NUM_CLASSES].sum(0) - hits
    return 100 * float((hits[found > 0] / union[found > 0]).mean())


if __name__ == "__main__":
    main()
