"""The ablation's table and plots, beside the published ones."""

from __future__ import annotations

import json
from typing import Any

from clouds_deploy.artifacts import environment
from clouds_deploy.reports.charts import Bar, BarChart, LineChart, Series
from clouds_deploy.reports.page import Details, Figures, Heading, Page, Paragraph, Table
from clouds_deploy.studies.ablation import PUBLISHED, REFINED, ROWS


def _shown(row: dict[str, Any]) -> str:
    return f"{row['mean']:.1f} ± {row['spread']:.1f}" if len(row["miou"]) > 1 else f"{row['mean']:.1f}"


def _name(row: dict[str, Any]) -> str:
    return str(row["row"]) + ("" if row["generated"] is None else f", {row['generated']} images")


def _table(result: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Give columns and rows: ours, one line a backbone, then the published ones."""
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


def _markdown(columns: list[str], lines: list[list[str]]) -> str:
    rows = [columns, ["---"] * len(columns), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def to_markdown(result: dict[str, Any]) -> str:
    """Write the table as Markdown."""
    target = result["target"]
    what = ", ".join(target["data"]) or f"streets/{target['domain']}"
    return (
        f"# Ablation\n\nmIoU in percent on {what}, {target['images']} images of each; mean ± standard "
        f"deviation over seeds.\n\n{_markdown(*_table(result))}\n\n## Every seed\n\n"
        f"{_markdown(*_seeds(result))}\n"
    )


def to_html(result: dict[str, Any]) -> str:
    """Write the page, self-contained."""
    target = result["target"]
    what = ", ".join(target["data"]) or f"drawn {target['domain']} streets"
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
        Details("Machine and versions", json.dumps(environment(), indent=2, ensure_ascii=False)),
    )
    return page.html()
