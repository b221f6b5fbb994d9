"""Bench results for people: summary.md and report.html."""

from __future__ import annotations

from typing import Any

from clouds_deploy.bench.charts import Bar, BarChart, LineChart, Series
from clouds_deploy.bench.page import Details, Figures, Heading, Page, Paragraph, Table, as_json_text

COLUMNS = (
    "backend",
    "p50 ms",
    "labels equal",
    "x torch (95 % interval)",
    "p90 ms",
    "p99 ms",
    "images/s",
    "peak MiB",
    "calls",
)
HOW = (
    "Every call hands one host array of uint8 images to the runtime and takes host arrays back: "
    "normalisation and argmax are inside, reading and resizing files are not. The backends take turns, and "
    "the first one of each round changes. A ratio is the median over the rounds of (torch eager's median / "
    "the backend's), with a bootstrap interval over the rounds. Labels are compared pixel by pixel, in "
    "the same process, with "
    "PyTorch eager's on the images packed with the bundle. Peak memory is that of a process that only loads "
    "the backend and runs it once."
)


def _row(entry: dict[str, Any]) -> list[str]:
    peak = "-" if entry["peak_mib"] is None else f"{entry['peak_mib']:.0f}"
    return [
        entry["backend"],
        f"{entry['p50_ms']:.2f}",
        entry["agreement_shown"],
        entry["speedup_shown"],
        f"{entry['p90_ms']:.2f}",
        f"{entry['p99_ms']:.2f}",
        f"{entry['images_per_second']:.1f}",
        peak,
        str(entry["calls"]),
    ]


def _machine(results: dict[str, Any]) -> str:
    machine = results["machine"]
    load = machine.get("load")
    busy = f", load {load[0]:g} at the start" if load else ""
    return f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads{busy}"


def _warnings(bundle: dict[str, Any]) -> list[str]:
    """Say what spoils a bundle's numbers."""
    found = []
    if bundle["random_weights"]:
        found.append("The backbone's weights are RANDOM: speed means something here, labels do not.")
    if bundle["classes_seen"] < 2:
        found.append("The reference labels hold one class only: equal labels prove little here.")
    found += [
        f"A gate failed at export: {gate['engine']} {gate['name']} {gate['shown']} ({gate['limit_shown']})."
        for gate in bundle["failed_gates"]
    ]
    found += [
        f"{entry['backend']} does not give PyTorch's labels ({entry['agreement_shown']}): its speed is void."
        for entry in bundle["results"]
        if not entry["passed"]
    ]
    return found


def markdown(results: dict[str, Any]) -> str:
    """Write summary.md: `results` is what `suites.bench` gathers."""
    settings = results["settings"]
    lines = [
        "# Bench",
        "",
        f"{_machine(results)}. Batch {settings['batch']}, {settings['rounds']} interleaved rounds, about "
        f"{settings['seconds']:g} s each.",
    ]
    for bundle in results["bundles"]:
        lines += ["", f"## {bundle['name']} {bundle['shape']}", ""]
        lines += [f"**{text}**\n" for text in _warnings(bundle)]
        lines += ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
        lines += ["| " + " | ".join(_row(entry)) + " |" for entry in bundle["results"]]
    return "\n".join([*lines, "", HOW, "", f"    {results['command']}", ""])


def html(results: dict[str, Any]) -> str:
    """Write report.html: `results` is what `suites.bench` gathers."""
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
            figures = [(f"{best['p50_ms']:.1f} ms", f"median, {best['backend']}")]
            if best["speedup"] is not None and best["backend"] != "torch":
                interval = f"95 %: {best['speedup_low']:.2f}-{best['speedup_high']:.2f}"
                figures.append((f"{best['speedup']:.2f} x", f"as quick as PyTorch eager ({interval})"))
            figures.append((best["agreement_shown"], f"labels equal, {best['backend']}"))
            page.add(Figures(figures))
        page.add(
            BarChart(
                "Milliseconds a call: median, and its line from the quickest call to the 90th percentile",
                [
                    Bar(
                        e["backend"],
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
                COLUMNS,
                [_row(e) for e in entries],
                bad=frozenset(i for i, e in enumerate(entries) if not e["passed"]),
            ),
            LineChart(
                "Did the machine hold still? Median of every round",
                [Series(e["backend"], list(enumerate(e["round_ms"], 1))) for e in entries],
                "round",
                "ms",
            ),
        )
    page.add(
        Heading("How it was measured"),
        Paragraph(HOW),
        Details("Repeat it", results["command"], open=True),
        Details("Machine and versions", as_json_text(results["machine"])),
    )
    return page.html()
