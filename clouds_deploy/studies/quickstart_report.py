"""The quickstart's report: what was trained, how good and how fast it is, and what to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import environment
from clouds_deploy.data.images import Pixels, read_image, read_label_ids
from clouds_deploy.data.overlay import overlay
from clouds_deploy.labels import CLASSES, NAMES
from clouds_deploy.reports.charts import Bar, BarChart, LineChart, Series
from clouds_deploy.reports.page import (
    Details,
    Figures,
    Heading,
    Page,
    Paragraph,
    Pictures,
    Table,
    as_json_text,
)
from clouds_deploy.streets import render

_NEXT = """\
# your own images through the bundle
clouds-deploy predict quickstart/bundle PHOTO.jpg FOLDER VIDEO.mp4 --out predicted

# train on a dataset of yours
clouds-deploy recipes cp tiny .
clouds-deploy data check /data/cityscapes --layout cityscapes
clouds-deploy train tiny.yaml data.layout=cityscapes data.root=/data/cityscapes --out runs/mine

# the published model: GTA5 with a frozen CLIP ConvNeXt-L
clouds-deploy recipes cat gta_convnext_l"""


def write_report(
    folder: Path,
    scores: dict[str, dict[str, Any]],
    exported: dict[str, Any],
    timed: dict[str, Any],
    pictures: dict[str, list[Path]],
    refined: dict[str, Any],
    seconds: dict[str, float],
) -> str:
    """The report as one self-contained HTML file.

    Args:
        folder: The quickstart's folder, everything in it made.
        scores: `evaluate`'s results: on `game` and on `photo` after self-training, on `photo` `before` it.
        exported: `export`'s result.
        timed: `bench`'s result.
        pictures: The images labelled, of both domains.
        refined: What became of the pseudo-labels, see `quickstart._refine`.
        seconds: How long each stage took.
    """
    game, photo, before = scores["game"], scores["photo"], scores["before"]
    gap = game["miou"] - photo["miou"]
    results = timed["bundles"][0]["results"]
    best = min((r for r in results if r["passed"]), key=lambda r: float(r["p50_ms"]))
    agreement = min(g["value"] for g in exported["gates"] if g["name"] == "labels equal")
    page = Page(
        "CLOUDS quickstart",
        "A small segmenter was trained on 19 classes in synthetic game-like streets, trained itself further "
        "on streets without labels, and was evaluated on streets of a look it had never seen. The exported "
        "bundle was checked to give the same labels as PyTorch.",
        footer=_footer(),
    )
    page.add(
        Figures(
            [
                (f"{game['miou']:.1f} %", "mIoU on streets like those it was trained on"),
                (
                    f"{photo['miou']:.1f} %",
                    f"mIoU on unseen photo-like streets; {before['miou']:.1f} before self-training",
                ),
                (f"{100 * agreement:.2f} %", "of the exported labels equal PyTorch's"),
                (f"{best['p50_ms']:.0f} ms", f"an image with {best['backend']}, the fastest backend"),
            ]
        ),
        Heading(
            "What it sees",
            "Left the image, in the middle the ground truth, right the exported bundle's labels. The top "
            "rows look like the training images; the bottom rows do not, and there it makes more errors.",
        ),
        Pictures(_rows(folder, pictures), columns=1, enlarge=True),
        _key(),
        Heading(
            "The gap",
            "Mean intersection over union (mIoU) of the 19 Cityscapes classes; 100 is perfect. The best that "
            f"one class everywhere reaches on photo streets is {photo['best_constant_class_miou']:.1f}. "
            f"Photo streets are {gap:.1f} points behind game streets. Closing this gap without a single "
            f"label of the target is what CLOUDS does: on photo streets {before['miou']:.1f} before "
            f"self-training, {photo['miou']:.1f} after it. (Some of that is only more training; "
            "docs/measurements/self-training.md tells the two apart, in longer runs.)",
        ),
        Table(
            ["class", "game %", "photo, before %", "photo %", "game - photo"], _classes(game, before, photo)
        ),
        Heading(
            "Pseudo-labels, refined",
            "Left an unseen street, in the middle the model's labels, right the same after a small Segment "
            "Anything model refined their outlines; where the two disagree the pixel gets no label and the "
            f"image shows. mIoU {refined['before']:.1f} before, {refined['after']:.1f} after, over the "
            f"{1 - refined['unlabelled']:.0%} of the pixels that kept a label. Self-training learns from "
            "labels refined like these, on streets of a third look.",
        ),
        Pictures(_refined(folder, refined), columns=1, enlarge=True),
        Heading("Training", _learnt(folder, seconds)),
        *_curves(folder),
        Heading(
            "Does the exported bundle equal the model?",
            "Before a bundle is written, every backend has to agree with PyTorch; otherwise there is none.",
        ),
        Table(
            ["gate", "measured", "limit", ""],
            [
                [f"{g['engine']}: {g['name']}", g["shown"], g["limit_shown"], _verdict(g["passed"])]
                for g in exported["gates"]
            ],
        ),
        Heading("Latency", f"One image of {timed['bundles'][0]['shape']}; interleaved rounds."),
        BarChart(
            "Milliseconds an image (median)",
            [Bar(r["backend"], r["p50_ms"], f"{r['p50_ms']:.1f}", bad=not r["passed"]) for r in results],
            "ms, shorter is better",
        ),
        Table(
            ["backend", "p50 ms", "p90 ms", "p99 ms", "speed-up over torch", "labels equal"],
            [
                [
                    r["backend"],
                    *(f"{r[name]:.1f}" for name in ("p50_ms", "p90_ms", "p99_ms")),
                    r["speedup_shown"],
                    r["agreement_shown"],
                ]
                for r in results
            ],
        ),
        Heading("Next steps"),
        Details("Commands", _NEXT, open=True),
        Paragraph(
            "What is real here: the method's network, its loss and matching, and ImageNet weights in a "
            "frozen EfficientNet-Lite0. What is small: the network, the images (256x128) and the training. "
            "The streets are synthetic, so these numbers say nothing about real roads.",
            "note",
        ),
        Details("Time of each stage", "\n".join(f"{name:<10} {s:6.0f} s" for name, s in seconds.items())),
        Details("Machine and versions", as_json_text(environment())),
    )
    return page.html()


def _rows(folder: Path, pictures: dict[str, list[Path]]) -> list[tuple[Pixels, str]]:
    items: list[tuple[Pixels, str]] = []
    for domain, paths in pictures.items():
        for path in paths:
            image = read_image(path)
            name, seed, index = path.stem.rsplit("_", 2)
            truth = render(name, int(seed), int(index), *image.shape[:2]).labels
            labels = read_label_ids(folder / "predictions" / domain / "labels" / f"{path.stem}.png")
            right = float(np.mean(labels == truth))
            gap = np.full((image.shape[0], 6, 3), 255, np.uint8)
            row = [image, gap, overlay(image, truth, 0.75), gap, overlay(image, labels, 0.75)]
            items.append((np.hstack(row), f"{domain} street {int(index) + 1}: {right:.0%} of pixels right"))
    return items


def _refined(folder: Path, refined: dict[str, Any]) -> list[tuple[Pixels, str]]:
    root = folder / "pseudo" / "refined" / "overlays"
    return [
        (read_image(root / f"{name}.png"), f"{before:.0%} of pixels right before, {after:.0%} after")
        for name, (before, after) in refined["right"].items()
    ]


def _key() -> Pictures:
    """The colours of all classes as a strip of small named swatches."""
    swatches = [(np.full((10, 40, 3), c.color, np.uint8), c.name) for c in CLASSES]
    return Pictures(swatches, columns=10)


def _classes(game: dict[str, Any], before: dict[str, Any], photo: dict[str, Any]) -> list[list[str]]:
    found = (game, before, photo)
    rows = [[name, *(scores["per_class"][name] for scores in found)] for name in NAMES]
    rows.append(["mean", *(scores["miou"] for scores in found)])
    return [
        [
            name,
            *("-" if v is None else f"{v:.1f}" for v in (a, b, c)),
            "-" if a is None or c is None else f"{a - c:.1f}",
        ]
        for name, a, b, c in rows
    ]


def _lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _learnt(folder: Path, seconds: dict[str, float]) -> str:
    speeds = [line["images_per_second"] for line in _lines(folder) if "images_per_second" in line]
    speed = f", about {np.median(speeds):.0f} images/s" if speeds else ""
    first, own = (
        f"{seconds[stage] / 60:.1f} minutes" if stage in seconds else "a time that was not recorded"
        for stage in ("train", "self-train")
    )
    return (
        f"Training took {first}{speed}, self-training after it {own}. Only the head "
        "was trained; the backbone is frozen. The curves are the first training's."
    )


def _verdict(passed: bool) -> str:
    return "ok" if passed else "FAILED"


def _curves(folder: Path) -> list[LineChart]:
    lines = _lines(folder)
    loss = [(line["step"], line["loss"]) for line in lines if "loss" in line]
    miou = [(line["step"], line["miou"]) for line in lines if line.get("miou") is not None]
    return [
        LineChart("Loss", [Series("loss", loss)], "step"),
        LineChart("mIoU on game streets it was not trained on", [Series("mIoU", miou)], "step", "%"),
    ]


def _footer() -> str:
    from clouds_deploy import __version__

    return f"clouds-deploy {__version__}. This page needs no network and no other file."
