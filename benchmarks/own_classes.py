"""Other classes than Cityscapes': what starting from a run of 19 brings, and what rare-class sampling brings.

    python benchmarks/own_classes.py init --out /tmp/init
    python benchmarks/own_classes.py rare --out /tmp/rare

Synthetic streets, `game` to `game`, three seeds; the rows are printed as Markdown. `init` trains a run of 19
classes, then for every seed twelve merged classes from it (`--init`) and anew, for equal steps. `rare` trains
with and without `data.sampling=rare` and `train.loss.class_weights=auto` and compares the five classes that
fill the fewest pixels of the training labels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

import clouds_deploy
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.data.histogram import count_classes
from clouds_deploy.data.sources import train_source

MERGED = {
    "drivable": ["road"],
    "walkway": ["sidewalk"],
    "structure": ["building", "wall", "fence"],
    "pole": ["pole"],
    "traffic light": ["traffic light"],
    "traffic sign": ["traffic sign"],
    "vegetation": ["vegetation", "terrain"],
    "sky": ["sky"],
    "person": ["person", "rider"],
    "vehicle": ["car", "truck", "bus"],
    "train": ["train"],
    "two-wheeler": ["motorcycle", "bicycle"],
}
SMALL = (
    "data.height=64",
    "data.width=128",
    "augment.crop=[64,128]",
    "train.eval_every=0",
    "train.checkpoint_every=100000",
    "train.workers=0",
)


def run(out: Path, *changes: str, init: Path | None = None) -> dict[str, Any]:
    """Evaluation of a run, which is trained if it is not there."""
    if not (out / "manifest.json").is_file():
        clouds_deploy.train("tiny", overrides=(*SMALL, *changes), out=out, init=init)
    return dict(json.loads((out / "evaluation.json").read_text(encoding="utf-8")))


def init(out: Path, seeds: int, steps: int, first: int) -> None:
    """From 19 classes to 12 against training anew."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "merged.json"
    path.write_text(json.dumps({"classes": list(MERGED)}), encoding="utf-8")
    pairs = ", ".join(f"{name}: {target}" for target, names in MERGED.items() for name in names)
    own = (f"data.classes={path}", f"data.map={{{pairs}}}", f"train.steps={steps}", "train.warmup_steps=10")
    run(out / "nineteen", f"train.steps={first}")
    print("| seed | anew | from 19 classes by name | gain |\n|---|---|---|---|")
    gains = []
    for seed in range(seeds):
        anew = run(out / f"anew_{seed}", *own, f"seed={seed}")["miou"]
        kept = run(out / f"kept_{seed}", *own, f"seed={seed}", init=out / "nineteen")["miou"]
        gains.append(kept - anew)
        print(f"| {seed} | {anew:.2f} | {kept:.2f} | {kept - anew:+.2f} |", flush=True)
    print(f"| mean | | | {mean(gains):+.2f} |")


def rare(out: Path, seeds: int, steps: int) -> None:
    """Rare-class sampling and class weights against neither."""
    ways = {
        "uniform": (),
        "weights": ("train.loss.class_weights=auto",),
        "rare": ("data.sampling=rare",),
        "both": ("data.sampling=rare", "train.loss.class_weights=auto"),
    }
    recipe = load_recipe("tiny", SMALL)
    found = count_classes(train_source(recipe), recipe.data.classes)
    order = [found.names[c] for c in found.shares().argsort()]
    rarest = [name for name in order if found.pixels[:, found.names.index(name)].any()][:5]
    print(f"rarest: {', '.join(rarest)}")
    print("| seed | way | mIoU | mIoU of the rarest five |\n|---|---|---|---|")
    for seed in range(seeds):
        for name, changes in ways.items():
            scores = run(out / f"{name}_{seed}", *changes, f"train.steps={steps}", f"seed={seed}")
            few = mean(scores["per_class"][one] or 0.0 for one in rarest)
            print(f"| {seed} | {name} | {scores['miou']:.2f} | {few:.2f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=("init", "rare"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--first", type=int, default=300, help="steps of the run of 19 classes")
    given = parser.parse_args()
    if given.study == "init":
        init(given.out, given.seeds, given.steps, given.first)
    else:
        rare(given.out, given.seeds, given.steps)
