"""MLPerf's load generator over a bundle: SingleStream and Offline, timed and for accuracy.

    pip install mlcommons-loadgen
    python benchmarks/loadgen.py BUNDLE [--backend openvino] [--threads N] [--precision bf16] [--batch 8]
        [--domain photo | --data ROOT --layout NAME] [--samples 64] [--seconds 60] [--out FILE]

The generator (github.com/mlcommons/inference) decides which sample is asked for and when, takes the times
and says whether a run is VALID: it ran long enough, and with enough queries. Samples are labelled images,
decoded and letterboxed to the graph's size beforehand, as MLPerf's image benchmarks have it; what is timed
is one call of the session, from a uint8 array to labels. In accuracy mode every sample is asked for once,
the generator logs the labels that it got, and mIoU is computed from its log: it must be that of
`clouds_deploy.evaluate`.
A performance figure by itself is no MLPerf result: those are submitted and audited.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlperf_loadgen as lg
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from clouds_deploy.artifacts import environment, write_json
from clouds_deploy.backends.backends import open_session
from clouds_deploy.bundles.bundle import Bundle, open_bundle
from clouds_deploy.data.sources import LayoutSource, Source, StreetsSource, select
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.letterbox import Letterbox, fit

SCENARIOS = ("SingleStream", "Offline")


class Samples:
    """Labelled images in memory, at the graph's size."""

    def __init__(self, source: Source, bundle: Bundle) -> None:
        self.images: list[np.ndarray] = []
        self.boxes: list[Letterbox] = []
        self.labels: list[np.ndarray] = []
        for index in range(len(source)):
            image, labels = source.load(index)
            if labels is None:
                raise SystemExit(f"{source.name(index)} has no labels")
            fitted, box = fit(image, bundle.height, bundle.width, bundle.mean_color)
            self.images.append(fitted)
            self.boxes.append(box)
            self.labels.append(labels)

    def __len__(self) -> int:
        return len(self.images)


def answering(
    call: Callable[[np.ndarray], np.ndarray], samples: Samples, batch: int
) -> Callable[[Any], None]:
    """What the generator calls with queries: labels of `batch` samples at a time."""

    def answer(queries: list[Any]) -> None:
        for start in range(0, len(queries), batch):
            part = queries[start : start + batch]
            labels = call(np.stack([samples.images[query.index] for query in part]))
            rows = [np.ascontiguousarray(row) for row in labels]
            lg.QuerySamplesComplete(
                [
                    lg.QuerySampleResponse(query.id, row.ctypes.data, row.nbytes)
                    for query, row in zip(part, rows, strict=True)
                ]
            )

    return answer


def generate(
    answer: Callable[[Any], None],
    count: int,
    scenario: str,
    mode: str,
    seconds: float,
    rate: float,
    logs: Path,
) -> None:
    """Runs the generator once; its logs are in the folder afterwards."""
    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = getattr(lg.TestMode, mode)
    settings.min_duration_ms = round(1e3 * seconds)
    settings.offline_expected_qps = rate
    settings.single_stream_expected_latency_ns = round(1e9 / rate)
    output = lg.LogOutputSettings()
    output.outdir, output.copy_summary_to_stdout = str(logs), False
    log = lg.LogSettings()
    log.log_output, log.enable_trace = output, False
    sut = lg.ConstructSUT(answer, lambda: None)
    qsl = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
    try:
        lg.StartTestWithLogSettings(sut, qsl, settings, log)
    finally:
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)


def summary(logs: Path) -> dict[str, str]:
    """The generator's summary: each `name : value` line up to its settings."""
    text = (logs / "mlperf_log_summary.txt").read_text()
    lines = text.partition("Test Parameters Used")[0].splitlines()
    return {
        name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value
    }


def accuracy(logs: Path, samples: Samples, bundle: Bundle) -> ConfusionMatrix:
    """Counts from the labels that the generator logged.

    Raises:
        RuntimeError: A sample is missing, or was answered twice.
    """
    entries = json.loads((logs / "mlperf_log_accuracy.json").read_text())
    found = [int(entry["qsl_idx"]) for entry in entries]
    if sorted(found) != list(range(len(samples))):
        raise RuntimeError(f"{len(found)} answers for {len(samples)} samples in {logs}")
    matrix = ConfusionMatrix()
    for index, entry in zip(found, entries, strict=True):
        labels = np.frombuffer(bytes.fromhex(entry["data"]), np.uint8).reshape(bundle.height, bundle.width)
        matrix.update(samples.boxes[index].restore(labels), samples.labels[index])
    return matrix


def measured(
    bundle: Bundle, samples: Samples, scenario: str, options: argparse.Namespace, logs: Path
) -> dict[str, Any]:
    """Figures of one scenario: the generator's verdict, its numbers, and mIoU of what it logged."""
    batch = 1 if scenario == "SingleStream" else options.batch
    session = open_session(
        bundle,
        options.backend,
        device=options.device,
        threads=options.threads,
        precision=options.precision,
        batch=batch,
    )
    name = bundle.inputs[0].name

    def call(images: np.ndarray) -> np.ndarray:
        return session.run({name: images})["labels"]

    try:
        warm = np.stack([samples.images[i % len(samples)] for i in range(batch)])
        rate = len(warm) / min(_seconds(call, warm) for _ in range(3))
        answer = answering(call, samples, batch)
        folders = {mode: logs / scenario / mode for mode in ("PerformanceOnly", "AccuracyOnly")}
        for mode, folder in folders.items():
            folder.mkdir(parents=True)
            generate(answer, len(samples), scenario, mode, options.seconds, rate, folder)
    finally:
        session.close()
    told = summary(folders["PerformanceOnly"])
    return {
        "backend": session.backend,
        "device": session.device,
        "batch": batch,
        "result": told.get("Result is", "none"),
        "loadgen": told,
        "miou": round(100 * accuracy(folders["AccuracyOnly"], samples, bundle).miou(), 4),
    }


def _seconds(call: Callable[[np.ndarray], np.ndarray], images: np.ndarray) -> float:
    """Seconds of one call, to tell the generator what to expect; it times the run itself."""
    import time

    start = time.perf_counter()
    call(images)
    return time.perf_counter() - start


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs what the command line asks for; gives what it writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--scenario", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--batch", type=int, default=8, help="images a call in Offline")
    parser.add_argument("--domain", default="photo", help="synthetic streets, where no data is given")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--layout", default="folder")
    parser.add_argument("--split", default="val")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)

    bundle = open_bundle(given.bundle)
    source: Source
    if given.data is None:
        source = StreetsSource(given.domain, 7, given.samples, bundle.height, bundle.width)
    else:
        whole = LayoutSource(given.layout, given.data, given.split)
        source = select(whole, min(given.samples, len(whole)))
    samples = Samples(source, bundle)
    made: dict[str, Any] = {
        "command": " ".join(["python benchmarks/loadgen.py", *(arguments or sys.argv[1:])]),
        "environment": environment(),
        "bundle": bundle.path.name,
        "size": [bundle.height, bundle.width],
        "samples": len(samples),
        "images": given.domain if given.data is None else f"{given.layout}: {given.data.name}",
        "seconds": given.seconds,
        "scenarios": {},
    }
    with tempfile.TemporaryDirectory() as logs:
        for scenario in given.scenario:
            figures = measured(bundle, samples, scenario, given, Path(logs))
            made["scenarios"][scenario] = figures
            print(f"{scenario}: {figures['result']}, mIoU {figures['miou']:.2f}")
            for name, value in figures["loadgen"].items():
                print(f"  {name}: {value}")
    if given.out is not None:
        write_json(given.out, made)
    return made


if __name__ == "__main__":
    results = main()
    sys.exit(any(figures["result"] != "VALID" for figures in results["scenarios"].values()))
