"""Bench results for people: summary.md and report.html."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from clouds_deploy.bench.entries import named
from clouds_deploy.bench.stages import PARTS
from clouds_deploy.reports.charts import Bar, BarChart, LineChart, Series
from clouds_deploy.reports.page import (
    Details,
    Figures,
    Heading,
    Page,
    Paragraph,
    Section,
    Table,
    as_json_text,
)

COLUMNS = (
    "backend",
    "p50 ms",
    "labels equal",
    "speed-up (95 % interval)",
    "p90 ms",
    "p99 ms",
    "images/s",
    "GFLOP/s",
    "of peak",
    "peak MiB",
    "calls",
)
HOW = (
    "Every call hands one host array of uint8 images to the backend and takes host arrays back: "
    "normalisation and argmax are inside, reading and resizing files are not. Rounds are interleaved over "
    "the backends, and each starts with the next one. The speed-up is over PyTorch eager: the median over "
    "the rounds of (its median / the backend's), with a bootstrap interval over the rounds. Labels are "
    "compared pixel by pixel, in the same process, with PyTorch eager's on the images packed with the "
    "bundle, a SAM's masks with those packed with it. GFLOP/s counts the graph's products and convolutions; "
    "`of peak` is their share of what a large matrix product reaches on this CPU, of the same type. Peak "
    "memory is that of a process that only loads the backend and runs it once."
)


PER_SECOND = {"batch": "images", "prompts": "prompts", "images of a folder": "images"}
"""Sizes whose throughput is shown too, and what is counted."""
APART = (
    "Where a call's time goes. Device: with inputs and outputs where the backend computes. Transfer: what a "
    "call takes beyond that. Decode and encode: a PNG for each image and one of its labels, one after the "
    "other. Interleaved; differences are medians over the rounds."
)


def _row(entry: dict[str, Any]) -> list[str]:
    peak = "-" if entry["peak_mib"] is None else f"{entry['peak_mib']:.0f}"
    return [
        named(entry),
        f"{entry['p50_ms']:.2f}",
        entry["agreement_shown"],
        entry["speedup_shown"],
        f"{entry['p90_ms']:.2f}",
        f"{entry['p99_ms']:.2f}",
        f"{entry['images_per_second']:.1f}",
        "-" if entry.get("gflops") is None else f"{entry['gflops']:.0f}",
        "-" if entry.get("peak_share") is None else f"{100 * entry['peak_share']:.0f} %",
        peak,
        str(entry["calls"]),
    ]


def _parts(entries: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]] | None:
    """Columns and rows of where calls' time goes; None where it was not measured."""
    known = [entry for entry in entries if "device_ms" in entry]
    shown = [key for key in (*PARTS, "joules") if any(entry[key] is not None for entry in known)]
    if not shown:
        return None
    titles = ["backend", *(f"{PARTS[k]}, ms" if k in PARTS else "J a call" for k in shown)]
    rows = [[named(e), *("-" if e[k] is None else f"{e[k]:.2f}" for k in shown)] for e in known]
    return titles, rows


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    load = machine.get("load")
    busy = f", load {load[0]:g} at the start" if load else ""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads{busy}"


def _warnings(bundle: dict[str, Any]) -> list[str]:
    """What makes a bundle's numbers doubtful or void."""
    found = []
    if bundle["random_weights"]:
        found.append("The backbone's weights are RANDOM: speed means something here, labels do not.")
    if bundle["classes_seen"] is not None and bundle["classes_seen"] < 2:
        found.append("The reference labels hold one class only: equal labels prove little here.")
    found += [
        f"A gate failed at export: {gate['engine']} {gate['name']} {gate['shown']} ({gate['limit_shown']})."
        for gate in bundle["failed_gates"]
    ]
    found += [
        f"{entry['backend']} does not give PyTorch's results ({entry['agreement_shown']}): its speed is void."
        for entry in bundle["results"]
        if not entry["passed"]
    ]
    return found


AGAINST = ("graph", "backend", "change", "measured by", "verdict")


def _columns(bundle: dict[str, Any]) -> list[str]:
    compared = bundle.get("compared", "labels equal")
    rows = "prompts/s" if "prompts" in bundle["shape"] else "images/s"
    return [{"labels equal": compared, "images/s": rows}.get(c, c) for c in COLUMNS]


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _growths(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    """All that was timed against a size: batch or prompts, and what else a suite asks for."""
    return [*([bundle["scaling"]] if "scaling" in bundle else []), *bundle.get("growth", [])]


def _scaling_columns(scaling: dict[str, Any]) -> list[str]:
    return [scaling["what"], *scaling["p50_ms"]]


def _scaling_rows(scaling: dict[str, Any]) -> list[list[str]]:
    columns = list(scaling["p50_ms"].values())
    rows = [[f"{size}", *(f"{c[i]:.1f} ms" for c in columns)] for i, size in enumerate(scaling["sizes"])]
    return [*rows, ["exponent", *(_exponent(scaling["exponent"][name]) for name in scaling["p50_ms"])]]


def _exponent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _against_rows(against: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{row['bundle']} {row['shape']}",
            row["backend"],
            f"{row['change']:.2f} ({row['low']:.2f}-{row['high']:.2f})",
            row["measure"],
            row["verdict"],
        ]
        for row in against["rows"]
    ]


def markdown(results: dict[str, Any]) -> str:
    """The text of summary.md.

    Args:
        results: What results.json holds.
    """
    settings = results["settings"]
    lines = [
        "# Bench",
        "",
        f"{_machine(results)}. Suite {settings.get('suite', 'default')}, batch {settings['batch']}, "
        f"{settings['rounds']} interleaved rounds, about {settings['seconds']:g} s each.",
    ]
    for bundle in results["bundles"]:
        lines += ["", f"## {bundle['name']} {bundle['shape']}", ""]
        lines += [f"**{text}**\n" for text in _warnings(bundle)]
        lines += _markdown_table(_columns(bundle), [_row(entry) for entry in bundle["results"]])
        parts = _parts(bundle["results"])
        if parts:
            lines += ["", *_markdown_table(*parts)]
        for found in _growths(bundle):
            lines += ["", *_markdown_table(_scaling_columns(found), _scaling_rows(found))]
    if "against" in results:
        lines += ["", f"## Against {results['against']['file']}", ""]
        lines += _markdown_table(AGAINST, _against_rows(results["against"]))
    return "\n".join([*lines, "", HOW, "", f"    {results['command']}", ""])


def html(results: dict[str, Any]) -> str:
    """The text of report.html.

    Args:
        results: What results.json holds.
    """
    settings = results["settings"]
    page = Page(
        "Bench",
        f"{_machine(results)}. Batch {settings['batch']}, {settings['rounds']} interleaved rounds, about "
        f"{settings['seconds']:g} s for each backend.",
        footer=f"clouds-deploy {results['machine']['packages'].get('clouds-deploy', '')}".strip(),
    )
    for bundle in results["bundles"]:
        entries = bundle["results"]
        page.add(Heading(bundle["name"], f"{bundle['shape']}, {bundle['nodes']} nodes."))
        page.add(*(Paragraph(text, "warning") for text in _warnings(bundle)))
        sound = [entry for entry in entries if entry["passed"]]
        if sound:
            best = min(sound, key=lambda entry: float(entry["p50_ms"]))
            figures = [(f"{best['p50_ms']:.1f} ms", f"median, {named(best)}")]
            if best["speedup"] is not None and best["backend"] != "torch":
                interval = f"95 %: {best['speedup_low']:.2f}-{best['speedup_high']:.2f}"
                figures.append((f"{best['speedup']:.2f}x", f"speed-up over PyTorch eager ({interval})"))
            compared = bundle.get("compared", "labels equal")
            figures.append((best["agreement_shown"], f"{compared}, {best['backend']}"))
            page.add(Figures(figures))
        page.add(
            BarChart(
                "Milliseconds a call: median, and a line from the fastest call to the 90th percentile",
                [
                    Bar(
                        named(e),
                        e["p50_ms"],
                        f"{e['p50_ms']:.1f}",
                        e["min_ms"],
                        e["p90_ms"],
                        not e["passed"],
                    )
                    for e in entries
                ],
                "ms, shorter is better",
            ),
            Table(
                _columns(bundle),
                [_row(e) for e in entries],
                bad=frozenset(i for i, e in enumerate(entries) if not e["passed"]),
            ),
            LineChart(
                "Median of every round: was the machine steady?",
                [Series(named(e), list(enumerate(e["round_ms"], 1))) for e in entries],
                "round",
                "ms",
            ),
        )
        parts = _parts(entries)
        if parts:
            page.add(Table(*parts, caption=APART))
        for found in _growths(bundle):
            page.add(*_scaling_sections(found))
    if "against" in results:
        rows = results["against"]["rows"]
        slower = frozenset(i for i, row in enumerate(rows) if row["verdict"] == "slower")
        page.add(
            Heading("Against an earlier run", f"{results['against']['file']}. Over 1 is faster now."),
            Table(AGAINST, _against_rows(results["against"]), bad=slower),
        )
    page.add(
        Heading("How it was measured"),
        Paragraph(HOW),
        Details("Command", results["command"], open=True),
        Details("Machine and versions", as_json_text(results["machine"])),
    )
    return page.html()


def _scaling_sections(scaling: dict[str, Any]) -> list[Section]:
    what, sizes = scaling["what"], scaling["sizes"]

    def named(name: str) -> str:
        exponent = scaling["exponent"][name]
        return name if exponent is None else f"{name}, exponent {exponent:.2f}"

    curves = {name: list(zip(sizes, taken, strict=True)) for name, taken in scaling["p50_ms"].items()}
    charts: list[Section] = [
        LineChart(
            f"How cost grows with {what}: milliseconds of a call"
            + (f"; {named(next(iter(curves)))}" if len(curves) == 1 else ""),
            [Series(named(name), curve) for name, curve in curves.items()],
            what,
            "ms",
        )
    ]
    if what in PER_SECOND:
        rates = {name: [(n, 1000 * n / ms) for n, ms in curve] for name, curve in curves.items()}
        charts.append(
            LineChart(
                f"Throughput against {what}",
                [Series(name, curve) for name, curve in rates.items()],
                what,
                f"{PER_SECOND[what]} a second",
            )
        )
    return [
        *charts,
        Table(
            _scaling_columns(scaling),
            _scaling_rows(scaling),
            caption="The exponent b fits milliseconds = a x size^b; 1 is proportional.",
        ),
    ]
