"""The C++ runtime against the Python one and against the bare OpenVINO call, interleaved in one process.

    pytest tests/cpp (builds build/cpp/release, with libclouds.so and clouds_bare.so)
    python benchmarks/cpp_latency.py BUNDLE [--images FOLDER] [--threads N] [--seconds S] [--out FILE]

For the graph's own size: the bare call (one request on its own tensors), the same once more (what differs
between them is noise), C++ end to end, Python end to end.
For every image of a folder: C++ and Python end to end from decoded pixels, with letterboxing both ways, and
whether the labels are the same bytes. All candidates run in turns by `clouds_deploy.bench.timing`.

One opening of a graph is some percent quicker than the next, for the memory it happens to get. So each
candidate is opened four times, once in every place of the order, and runs once there and then, which is when
OpenVINO takes its memory; the calls that are timed take its openings in turn.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def binding() -> Any:
    """Load engines/cpp/python/clouds_c.py."""
    spec = importlib.util.spec_from_file_location("clouds_c", ROOT / "engines/cpp/python/clouds_c.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def bare_call(build: Path, graph: Path, image: np.ndarray, threads: int) -> Any:
    """Open the graph in OpenVINO's C++ API and nothing else; gives a call."""
    library = ctypes.CDLL(str(build / "clouds_bare.so"))
    library.bare_open.restype = ctypes.c_void_p
    library.bare_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p, *2 * [ctypes.c_size_t], ctypes.c_int]
    library.bare_run.argtypes = [ctypes.c_void_p]
    handle = library.bare_open(str(graph).encode(), image.ctypes.data, *image.shape[:2], threads)
    return lambda: library.bare_run(handle)


def main() -> None:
    """Measure, print, and write what was measured."""
    from clouds_deploy.artifacts import environment
    from clouds_deploy.bench.timing import measure, ratio
    from clouds_deploy.data.images import list_images, read_image
    from clouds_deploy.export.parity import drawn_images
    from clouds_deploy.runtime.bundle import open_bundle
    from clouds_deploy.runtime.segmenter import BundleSegmenter

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--build", type=Path, default=ROOT / "build/cpp/release")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--openings", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of this process: for a machine others use too"
    )
    given = parser.parse_args()
    clock = time.process_time_ns if given.cpu_time else time.perf_counter_ns

    facts = open_bundle(given.bundle)
    height, width = facts.height, facts.width
    image = np.ascontiguousarray(drawn_images(height, width, 1)[0])
    labels = np.empty((height, width), np.uint8)
    clouds = binding()
    library = clouds.load(given.build / "libclouds.so")
    settings: dict[str, Any] = {"backend": "openvino", "threads": given.threads}
    makers: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare_call(given.build, facts.graph, image, given.threads),
        "cpp": lambda: clouds.Segmenter(library, given.bundle, **settings).segment,
        "again": lambda: bare_call(given.build, facts.graph, image, given.threads),
        "python": lambda: BundleSegmenter(given.bundle, **settings).predict,
    }
    given_to = {"bare": (), "cpp": (image, labels), "again": (), "python": (image,)}
    opened: dict[str, list[Any]] = {name: [] for name in makers}
    for turn in range(given.openings):
        at = turn % len(makers)
        for name in [*makers][at:] + [*makers][:at]:
            opened[name].append(makers[name]())
            opened[name][-1](*given_to[name])
    turns = {name: itertools.cycle(calls) for name, calls in opened.items()}
    segment, predict = opened["cpp"][0], opened["python"][0]

    results: dict[str, Any] = {
        "environment": environment(),
        "size": [height, width],
        "threads": given.threads,
        "openings": given.openings,
    }
    results["clock"] = "process CPU time" if given.cpu_time else "wall"
    candidates = {
        name: lambda name=name: next(turns[name])(*given_to[name])  # type: ignore[misc]
        for name in makers
    }
    warmup = 2 * given.openings
    timings = measure(candidates, warmup=warmup, rounds=given.rounds, seconds=given.seconds, clock=clock)
    each = {
        name: [float(np.median(timing.milliseconds[n :: given.openings])) for n in range(given.openings)]
        for name, timing in timings.items()
    }
    assert np.array_equal(predict(image), segment(image))
    faster = ratio(timings["python"], timings["cpp"])
    over = ratio(timings["cpp"], timings["bare"])
    extra = float(np.median(timings["cpp"].rounds - timings["bare"].rounds))
    for name, timing in timings.items():
        figures = f"p50 {timing.percentile(50):9.3f} ms  min {timing.minimum:9.3f} ms"
        openings = ", ".join(f"{value:.3f}" for value in each[name])
        print(f"{height} x {width}  {name:7s} {figures}  each opening {openings}")
    print(f"  C++ is {faster.value:.3f}x ({faster.low:.3f} to {faster.high:.3f}) as fast as Python")
    noise = ratio(timings["again"], timings["bare"])
    print(f"  a second one takes {noise.value:.4f} ({noise.low:.4f} to {noise.high:.4f}) of the first: noise")
    print(
        f"  C++ takes {over.value:.4f} ({over.low:.4f} to {over.high:.4f}) of the bare call, {extra:+.4f} ms"
    )
    results["graph_size"] = {
        "timings": {name: timing.to_json() for name, timing in timings.items()},
        "python_over_cpp": vars(faster),
        "cpp_over_bare": vars(over),
        "bare_over_bare": vars(noise),
        "cpp_minus_bare_ms": extra,
        "p50_ms_of_each_opening": each,
    }
    results["images"] = []
    for path in list_images([given.images]) if given.images else []:
        photo = read_image(path)
        same = bool(np.array_equal(predict(photo), segment(photo)))
        timings = measure(
            {
                "cpp": lambda p=photo: next(turns["cpp"])(p),
                "python": lambda p=photo: next(turns["python"])(p),
            },
            rounds=given.rounds,
            seconds=given.seconds / 4,
            clock=clock,
        )
        faster = ratio(timings["python"], timings["cpp"])
        medians = {name: timing.percentile(50) for name, timing in timings.items()}
        print(
            f"{path.name} {photo.shape[0]} x {photo.shape[1]}: labels {'equal' if same else 'DIFFER'}, "
            f"C++ {medians['cpp']:.2f} ms, Python {medians['python']:.2f} ms, "
            f"{faster.value:.3f}x ({faster.low:.3f} to {faster.high:.3f})"
        )
        entry = {"name": path.name, "size": list(photo.shape[:2]), "labels_equal": same}
        results["images"].append(
            {
                **entry,
                "timings": {name: timing.to_json() for name, timing in timings.items()},
                "python_over_cpp": vars(faster),
            }
        )
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
