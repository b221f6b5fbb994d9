"""The paper's ablation on data of one's own: what generated images bring, and what refinement adds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import clouds_deploy
from clouds_deploy.artifacts import (
    MANIFEST,
    check_new,
    environment,
    read_json,
    sha256,
    write_json,
    write_text,
)
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.reports.charts import Bar, BarChart, LineChart, Series
from clouds_deploy.reports.page import Details, Figures, Heading, Page, Paragraph, Table, as_json_text

BACKBONES = {
    "frozen": (),
    "trainable": ("model.backbone.trainable=true",),
    "lora": ("model.backbone.adapter.kind=lora",),
}
"""How the backbone is treated, and the overrides that do it."""
ROWS = {
    "source only": ("joint=null",),
    "+ generated": ("joint.refine=null",),
    "+ generated + refine": (),
}
"""What the second stage learns from, and the overrides that do it; all rows take as many steps."""
SOURCE, GENERATED, REFINED = ROWS
PUBLISHED = {
    "RN50": (50.0, 50.7, 53.3),
    "RN101": (51.9, 53.3, 54.7),
    "ConvNeXt-L": (58.5, 58.6, 61.5),
}
"""The ablation of the paper, GTA5 to Cityscapes, BDD100K and Mapillary (docs/explanation/method.md 7)."""
_SCORES = "scores.json"
_MARK = "ablation.json"


def ablate(
    *,
    out: str | Path,
    recipe: str = "tiny",
    joint: str = "tiny_joint",
    backbones: Sequence[str] = ("frozen",),
    seeds: int = 3,
    generated: Sequence[int] = (),
    data: Sequence[str] = (),
    domain: str = "photo",
    images: int = 200,
    overrides: Sequence[str] = (),
    joint_overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Trains every row of the ablation with every seed, evaluates it on the target and writes a report.

    For each backbone and seed one warm-up run is trained, and every row goes on from it for the joint
    recipe's steps: `source only` on labelled images alone, `+ generated` with the teacher's labels as they
    are, `+ generated + refine` with labels refined by SAM. A killed call resumes where it was; a repeated one
    trains nothing again.

    Args:
        out: The folder for runs, ablation.json, summary.md and report.html.
        recipe: The warm-up's recipe.
        joint: The joint stage's recipe.
        backbones: Of `frozen`, `trainable` and `lora`.
        seeds: How many seeds, from 0 on.
        generated: Numbers of generated images to try in the last row, beside the recipe's own.
        data: What to evaluate on, as `evaluate`'s; several give their average. None means synthetic streets.
        domain: The look of the synthetic streets.
        images: Evaluate on this many images of each.
        overrides: `key=value` each, on top of both recipes.
        joint_overrides: The same, on top of the joint recipe alone.

    Returns:
        `rows`, each with `backbone`, `row`, `generated` (null: the recipe's), `miou` of each seed in percent,
        `mean` and `spread` (standard deviation, 0 for one seed); `gains`, for each backbone the last row's
        mean, least and every seed's points above `source only`; `published`; `report`.

    Raises:
        CloudsError: See `train` and `evaluate`; `out` is something else.
    """
    for name in backbones:
        if name not in BACKBONES:
            raise CloudsError(f"there is no treatment `{name}` of the backbone", nearest(name, BACKBONES))
    if seeds < 1 or not backbones:
        raise CloudsError("nothing to train", "choose at least one seed and one backbone")
    folder = Path(out)
    if not os.path.isfile(folder / _MARK):
        check_new(folder, what="an ablation")
    if not (folder / _MARK).is_file():
        write_json(folder / _MARK, {})
    target = {"data": list(data), "domain": None if data else domain, "images": images}
    work: list[tuple[str, int | None, tuple[str, ...]]] = [
        (row, None, changes) for row, changes in ROWS.items()
    ]
    work += [(REFINED, count, (f"joint.generated_images={count}",)) for count in generated]
    scores: dict[tuple[str, str, int | None], list[float]] = {}
    for backbone in backbones:
        for seed in range(seeds):
            common = (*BACKBONES[backbone], *overrides, f"seed={seed}")
            runs = folder / "runs" / backbone / f"seed_{seed}"
            say(f"[bold]{backbone}, seed {seed}[/] warm-up")
            _train(recipe, runs / "warm_up", common)
            for row, count, changes in work:
                say(f"[bold]{backbone}, seed {seed}[/] {row}{'' if count is None else f', {count} images'}")
                run = runs / (_slug(row) + ("" if count is None else f"_{count}"))
                _train(joint, run, (*common, *joint_overrides, *changes), init=runs / "warm_up")
                scores.setdefault((backbone, row, count), []).append(_score(folder, run, target))
    rows = [
        {
            "backbone": backbone,
            "row": row,
            "generated": count,
            "miou": found,
            "mean": statistics.mean(found),
            "spread": statistics.stdev(found) if len(found) > 1 else 0.0,
        }
        for (backbone, row, count), found in scores.items()
    ]
    gains = {name: _gain(scores[name, SOURCE, None], scores[name, REFINED, None]) for name in backbones}
    result: dict[str, Any] = {
        "rows": rows,
        "gains": gains,
        "published": {name: dict(zip(ROWS, row, strict=True)) for name, row in PUBLISHED.items()},
        "target": target,
        "report": str(folder / "report.html"),
    }
    write_text(folder / "summary.md", _markdown(result))
    write_text(folder / "report.html", _page(result).html())
    write_json(folder / _MARK, result)
    return result


def _gain(before: Sequence[float], after: Sequence[float]) -> dict[str, Any]:
    gains = [b - a for a, b in zip(before, after, strict=True)]
    return {"mean": statistics.mean(gains), "least": min(gains), "seeds": gains}


def _slug(row: str) -> str:
    return "_".join(word for word in row.split() if word != "+")


def _train(recipe: str, run: Path, overrides: Sequence[str], init: Path | None = None) -> None:
    """Trains a run or resumes it; a finished one is checked to be of this recipe."""
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.training.run import check_resumable

    if (run / MANIFEST).is_file():
        check_resumable(run, load_recipe(recipe, tuple(overrides)))
        return
    going = run.exists()
    clouds_deploy.train(recipe, overrides=overrides, out=run, resume=going, init=None if going else init)


def _score(folder: Path, run: Path, target: dict[str, Any]) -> float:
    """The mIoU of a run on the target in percent, computed once."""
    path = folder / _SCORES
    known = read_json(path) if path.is_file() else {}
    key = f"{run.relative_to(folder).as_posix()} {sha256(run / MANIFEST)[:16]} {target}"
    if key not in known:
        if target["data"]:
            found = clouds_deploy.evaluate(run, data=target["data"], images=target["images"])
        else:
            found = clouds_deploy.evaluate(
                run, layout="streets", domain=target["domain"], images=target["images"]
            )
        if found["miou"] is None:
            raise CloudsError("the target has no labels", "evaluate on images with ground truth")
        known[key] = found["miou"]
        write_json(path, known)
    return float(known[key])


def _shown(row: dict[str, Any]) -> str:
    return f"{row['mean']:.1f} ± {row['spread']:.1f}" if len(row["miou"]) > 1 else f"{row['mean']:.1f}"


def _name(row: dict[str, Any]) -> str:
    return str(row["row"]) + ("" if row["generated"] is None else f", {row['generated']} images")


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Columns and rows: ours, one line a backbone, then the published ones."""
    lines = []
    for backbone, gain in result["gains"].items():
        cells = {
            r["row"]: _shown(r) for r in result["rows"] if r["backbone"] == backbone and not r["generated"]
        }
        lines.append([f"{backbone}, here", *(cells[row] for row in ROWS), f"{gain['mean']:+.1f}"])
    for name, published in PUBLISHED.items():
        lines.append(
            [f"{name}, published", *(f"{v:.1f}" for v in published), f"{published[2] - published[0]:+.1f}"]
        )
    return ["backbone", *ROWS, "gain"], lines


def _seeds(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    count = max(len(row["miou"]) for row in result["rows"])
    lines = [[f"{r['backbone']}, {_name(r)}", *(f"{v:.2f}" for v in r["miou"])] for r in result["rows"]]
    return ["row", *(f"seed {i}" for i in range(count))], lines


def _markdown_table(columns: list[str], lines: list[list[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _markdown(result: dict[str, Any]) -> str:
    """The tables as Markdown."""
    target = result["target"]
    what = ", ".join(target["data"]) or f"streets/{target['domain']}"
    return (
        f"# Ablation\n\nmIoU in percent on {what}, {target['images']} images of each; mean ± standard "
        f"deviation over seeds.\n\n{_markdown_table(*_table(result))}\n\n## Every seed\n\n"
        f"{_markdown_table(*_seeds(result))}\n"
    )


def _page(result: dict[str, Any]) -> Page:
    """The report."""
    target = result["target"]
    what = ", ".join(target["data"]) or f"synthetic {target['domain']} streets"
    page = Page(
        "What self-training brings",
        f"mIoU on {what}, whose labels nobody trained on. All rows start from the same warm-up and take as "
        "many steps.",
    )
    first = next(iter(result["gains"]))
    gain = result["gains"][first]
    least = f"the least of {len(gain['seeds'])} seeds"
    page.add(
        Figures(
            [
                (f"{gain['mean']:+.1f}", f"points from generated images with refined labels ({first})"),
                (f"{gain['least']:+.1f}", least),
            ]
        ),
        Heading("The ablation", "Ours above, the paper's below: other data, other size, the same rows."),
        Table(*_table(result)),
    )
    for backbone in result["gains"]:
        rows = [r for r in result["rows"] if r["backbone"] == backbone]
        bars = [
            Bar(_name(r), r["mean"], _shown(r), r["mean"] - r["spread"], r["mean"] + r["spread"])
            for r in rows
        ]
        page.add(BarChart(f"mIoU, {backbone} backbone", bars, "%, longer is better"))
        swept = sorted((r["generated"], r["mean"]) for r in rows if r["generated"] and r["row"] == REFINED)
        if len(swept) > 1:
            page.add(
                LineChart("mIoU by number of generated images", [Series(backbone, swept)], "images", "%")
            )
    page.add(
        Heading("Every seed"),
        Table(*_seeds(result)),
        Paragraph("The spread is the standard deviation over seeds; one seed has none.", "note"),
        Details("Machine and versions", as_json_text(environment())),
    )
    return page
