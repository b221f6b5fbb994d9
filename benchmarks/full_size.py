"""The published ConvNeXt-L model at full size: parameters, seconds, memory; exact against fast inference.

    python benchmarks/full_size.py --run quickstart/run --out benchmarks/results/full_size.json

Weights of the large model are random: time and memory do not depend on them. What `fast` changes does, so the
agreement of the two is measured on a trained model (`--run`), on synthetic streets of `photo` and the images
of `--images`. Every figure of memory is the peak of a process of its own (Linux), counted from before its
first forward; `above_model` subtracts what it held then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.config.shipped import load_recipe
from clouds_deploy.data.images import Pixels, list_images, read_image
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.models.backbones import build_backbone
from clouds_deploy.models.clouds.segmenter import Segmenter
from clouds_deploy.models.clouds.store import load_run
from clouds_deploy.streets import render

RECIPE = "gta_convnext_l"
FORMS = ("exact", "fast")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", type=Path, help="a trained run for the agreement of exact and fast")
    parser.add_argument("--images", type=Path, nargs="*", default=[], help="photos to compare them on, too")
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, nargs=2, action="append", metavar=("H", "W"))
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(forward(given.child, given.size[0], given.rounds)))
        return
    report: dict[str, Any] = {"environment": environment(), "recipe": RECIPE, "forward": {}}
    for height, width in given.size or [(512, 1024), (1024, 2048)]:
        for form in FORMS:
            command = [sys.executable, __file__, "--child", form, "--rounds", str(given.rounds)]
            command += ["--size", str(height), str(width)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            result = json.loads(done.stdout.splitlines()[-1])
            report["forward"][f"{height}x{width} {form}"] = result
            print(f"{height}x{width} {form}: {result}", flush=True)
    if given.run:
        report["agreement"] = agreement(given.run, given.images, given.scenes)
        print(json.dumps(report["agreement"], indent=1))
    if given.out:
        write_json(given.out, report)


def _memory(field: str) -> float:
    """Give VmRSS or VmHWM of this process in GiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 2**20 for line in lines if line.startswith(field))


def forward(form: str, size: list[int], rounds: int) -> dict[str, Any]:
    """Run one image through the large model."""
    recipe = load_recipe(RECIPE, ("model.backbone.weights=random",))
    model = Segmenter(recipe.model, build_backbone(recipe.model.backbone)).eval()
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    seconds = []
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before = _memory("VmRSS")
    with torch.inference_mode():
        for _ in range(1 + rounds):
            start = time.perf_counter()
            model.scores(image, "exact" if form == "exact" else "fast").argmax(1)
            seconds.append(time.perf_counter() - start)
    return {
        "trainable_parameters": model.trainable_parameters(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": float(np.median(seconds[1:])),
        "peak_gib": _memory("VmHWM"),
        "above_model_gib": _memory("VmHWM") - before,
    }


def agreement(run: Path, folders: list[Path], scenes: int) -> dict[str, Any]:
    """Compare the label maps of both forms, and what they score."""
    recipe, model = load_run(run)
    matrices = {form: ConfusionMatrix() for form in FORMS}
    same: dict[str, list[float]] = {}
    rows = recipe.data.height
    streets = [render("photo", 4242, i, rows, 2 * rows) for i in range(scenes)]
    pictures: list[tuple[str, Pixels, Pixels | None]] = []
    pictures += [("streets/photo", scene.image, scene.labels) for scene in streets]
    pictures += [("photos", read_image(path), None) for path in list_images(folders)]
    for kind, image, truth in pictures:
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        with torch.inference_mode():
            maps = {form: model.scores(pixels, form)[0].argmax(0).numpy() for form in FORMS}  # type: ignore[arg-type]
        same.setdefault(kind, []).append(float((maps["exact"] == maps["fast"]).mean()))
        if truth is not None:
            for form in FORMS:
                matrices[form].update(maps[form].astype(np.uint8), truth)
    return {
        "label_agreement": {kind: float(np.mean(values)) for kind, values in same.items()},
        "lowest": {kind: min(values) for kind, values in same.items()},
        "images": {kind: len(values) for kind, values in same.items()},
        "miou_photo": {form: 100 * matrix.miou() for form, matrix in matrices.items()},
    }


if __name__ == "__main__":
    main()
