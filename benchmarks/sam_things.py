"""How well a SAM finds the things of labelled street images that it never saw, and what that looks like.

    python benchmarks/sam_things.py --layout cityscapes --root DATA --split val --pictures things

Things are the connected parts of the labels' thing classes, for such data has no instances: neighbours of a
class count as one. Each is asked for by one random interior point, by five, and by five clicks that correct
each other; the pictures show the first two.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.data.sources import LayoutSource
from clouds_deploy.labels import CLASSES
from clouds_deploy.models.sam.build import load_sam
from clouds_deploy.streets import Scene
from clouds_deploy.training.sam.evaluate import asked, evaluate_sam, things
from clouds_deploy.training.sam.prompts import interior_points

COLORS = np.array(
    [(230, 60, 60), (60, 160, 230), (250, 190, 40), (120, 200, 80), (180, 90, 210), (250, 130, 180)]
)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layout", default="cityscapes")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--split", default="val")
    parser.add_argument("--sam", default="sam_tiny")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for pictures: truth, one point, five points")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sam = load_sam(given.sam, given.weights).sam
    source = LayoutSource(given.layout, given.root, given.split)
    report = {"environment": environment(), "images": {}}
    for index in range(len(source)):
        scene = as_scene(*source.load(index))
        name = Path(source.name(index)).name
        found = evaluate_sam(sam, [scene])
        report["images"][name] = found
        print(name, {key: round(value, 1) for key, value in found.items()}, flush=True)
        if given.pictures:
            given.pictures.mkdir(parents=True, exist_ok=True)
            draw(sam, scene).save(given.pictures / f"{name}.png")
    rows = list(report["images"].values())
    count = sum(row["instances"] for row in rows)
    scores = ("iou_1", "iou_5", "clicks_1", "clicks_5")
    report["mean"] = {key: sum(row[key] * row["instances"] for row in rows) / max(count, 1) for key in scores}
    report["instances"] = count
    print(json.dumps(report["mean"]), count)
    if given.out:
        write_json(given.out, report)


def as_scene(image: np.ndarray, labels: np.ndarray) -> Scene:
    """Number the connected parts of thing classes."""
    instances, count = np.zeros(labels.shape, np.int32), 0
    for number, one in enumerate(CLASSES):
        if one.thing:
            parts, found = ndimage.label(labels == number)
            instances += np.where(parts > 0, parts + count, 0).astype(np.int32)
            count += found
    return Scene(image, labels, instances)


def draw(sam: torch.nn.Module, scene: Scene) -> Image.Image:
    """Lay truth, masks from one point and masks from five over the image, one below the other."""
    masks = np.stack(things(scene)) if things(scene) else np.zeros((0, *scene.labels.shape), bool)
    truth, ask = torch.from_numpy(masks), asked(sam, scene.image)
    panels = [_over(scene.image, masks)]
    for n in (1, 5):
        place = interior_points(truth, n, torch.Generator().manual_seed(n))
        found, _ = ask(place, torch.ones(len(truth), n), None, False)
        panels.append(_over(scene.image, found.numpy(), place.numpy()))
    sheet = Image.new("RGB", (panels[0].width, sum(p.height for p in panels) + 8 * 2), (255, 255, 255))
    top = 0
    for panel in panels:
        sheet.paste(panel, (0, top))
        top += panel.height + 8
    return sheet


def _over(image: np.ndarray, masks: np.ndarray, points: np.ndarray | None = None) -> Image.Image:
    out = image.astype(np.float32)
    for number, mask in enumerate(masks):
        edge = mask & ~ndimage.binary_erosion(mask, iterations=2)
        color = COLORS[number % len(COLORS)]
        out[mask] = 0.55 * out[mask] + 0.45 * color
        out[edge] = color
    for each in () if points is None else points:
        for x, y in each.astype(int):
            out[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 255
    return Image.fromarray(out.astype(np.uint8)).resize((768, round(768 * image.shape[0] / image.shape[1])))


if __name__ == "__main__":
    main()
