"""A training of seconds: 64x128 scenes, one decoder layer each, and what the tests ask of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from clouds_deploy.config.parse import parse
from clouds_deploy.config.recipe import Recipe

RECIPE = """
name: small
seed: 3
model:
  backbone: {name: efficientnet_lite0, weights: random}
  width: 32
  pixel_decoder: {layers: 1, heads: 2, points: 2, feedforward: 32}
  mask_decoder: {queries: 21, layers: 1, heads: 2, feedforward: 32}
data: {layout: streets, domain: game, height: 64, width: 128, train_images: 12, val_images: 3}
augment: {crop: [64, 128], scale: [0.75, 1.5]}
train:
  steps: 12
  batch_size: 2
  lr: 1.0e-3
  clip_norm: 1.0
  schedule: poly
  warmup_steps: 3
  eval_every: 5
  checkpoint_every: 3
  log_every: 2
  workers: 0
  loss: {points: 64}
evaluate: {short_side: null}
export: {height: 64, width: 128}
"""


def small_recipe(*overrides: str) -> Recipe:
    return parse(Recipe, RECIPE, "small", overrides)


def start_training(recipe: Recipe, folder: Path, out: Path, *, resume: bool = False) -> subprocess.Popen[str]:
    """Train in a process of its own, which a test may kill; its disk is slow, so that writes can be hit."""
    path = folder / "recipe.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    code = (
        "import os, sys, time, pathlib, torch; torch.set_num_threads(1); flush = os.fsync;"
        "os.fsync = lambda handle: (time.sleep(0.01), flush(handle));"
        "from clouds_deploy.config.shipped import load_recipe;"
        "from clouds_deploy.training.segmenter.loop import train;"
        "train(load_recipe(sys.argv[1]), pathlib.Path(sys.argv[2]), resume=sys.argv[3] == 'resume')"
    )
    arguments = [sys.executable, "-c", code, str(path), str(out), "resume" if resume else "start"]
    return subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True)
