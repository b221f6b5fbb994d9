"""The C++ library against the Python one and against the bare OpenVINO call, interleaved in one process.

    pytest tests/cpp (builds build/cpp/release, with libclouds.so and clouds_bare.so)
    python benchmarks/cpp_latency.py BUNDLE [--images FOLDER] [--threads N] [--seconds S] [--out FILE]

For the graph's own size: the bare call (one request on its own tensors), the same once more (what differs
between them is noise), C++ end to end, Python end to end.
For every image of a folder: C++ and Python end to end from decoded pixels, with letterboxing both ways, and
whether the labels are the same bytes. All candidates are interleaved by `clouds_deploy.bench.timing`.

One opening of a graph is some percent faster than the next, depending on the memory it gets, and what is
opened first in a process tends to be slowest. So all of it happens in several processes, one after the other,
each of which opens the candidates in another order; ratios are taken within a process, and their interval is
that of the processes.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import os
import subprocess
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


def time_here(given: argparse.Namespace) -> dict[str, Any]:
    """Opens every candidate once and times them interleaved; milliseconds (p50) of each."""
    from clouds_deploy.bench.timing import measure
    from clouds_deploy.bundles.bundle import open_bundle
    from clouds_deploy.data.images import list_images, read_image
    from clouds_deploy.export.gates import street_images
    from clouds_deploy.inference.segmenter import open_model

    clock = time.process_time_ns if given.cpu_time else time.perf_counter_ns
    facts = open_bundle(given.bundle)
    height, width = facts.height, facts.width
    image = np.ascontiguousarray(street_images(height, width, 1)[0])
    labels = np.empty((height, width), np.uint8)
    clouds = binding()
    library = clouds.load(given.build / "libclouds.so")
    settings: dict[str, Any] = {"backend": "openvino", "threads": given.threads}
    makers: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare_call(given.build, facts.file(), image, given.threads),
        "cpp": lambda: clouds.Segmenter(library, given.bundle, **settings).segment,
        "again": lambda: bare_call(given.build, facts.file(), image, given.threads),
        "python": lambda: open_model(given.bundle, **settings).predict,
    }
    of_size = {"bare": (), "cpp": (image, labels), "again": (), "python": (image,)}
    opened: dict[str, Any] = {}
    at = given.process % len(makers)
    for name in [*makers][at:] + [*makers][:at]:
        opened[name] = makers[name]()
        opened[name](*of_size[name])  # OpenVINO takes its memory now
    assert np.array_equal(opened["python"](image), opened["cpp"](image))

    def timed(arguments: dict[str, Any], seconds: float) -> dict[str, float]:
        calls = {name: lambda name=name: opened[name](*arguments[name]) for name in arguments}
        found = measure(calls, warmup=1, rounds=given.rounds, seconds=seconds, clock=clock)
        return {name: one.percentile(50) for name, one in found.items()}

    found: dict[str, Any] = {
        "size": [height, width],
        "graph_size": timed(of_size, given.seconds),
        "images": [],
    }
    for path in list_images([given.images]) if given.images else []:
        photo = read_image(path)
        same = bool(np.array_equal(opened["python"](photo), opened["cpp"](photo)))
        entry = {"name": path.name, "size": list(photo.shape[:2]), "labels_equal": same}
        times = timed({"cpp": (photo,), "python": (photo,)}, given.seconds / 4)
        found["images"].append({**entry, "p50_ms": times})
    return found


def compare(processes: list[dict[str, float]], one: str, other: str) -> dict[str, float]:
    """Say how many times as long `one` takes as `other`: the processes' median, and its 95 % interval."""
    from clouds_deploy.bench.timing import Timing, ratio

    sides = (np.array([process[name] for process in processes]) for name in (one, other))
    return vars(ratio(*(Timing(side, side) for side in sides)))


def main() -> None:
    """Measure, print, and write what was measured."""
    from clouds_deploy.artifacts import environment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--build", type=Path, default=ROOT / "build/cpp/release")
    parser.add_argument("--images", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4, help="for each candidate in each process")
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--cpu-time", action="store_true", help="of the process: for a machine others use too"
    )
    parser.add_argument("--process", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.process is not None:
        print(json.dumps(time_here(given)))
        return
    load = os.getloadavg()[0]
    found = []
    for number in range(given.processes):
        command = [sys.executable, __file__, *sys.argv[1:], "--process", str(number)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"process {number}: {found[-1]['graph_size']}", flush=True)
    sizes = [one["graph_size"] for one in found]
    results: dict[str, Any] = {
        "environment": environment(),
        "load_average_before": load,
        "size": found[0]["size"],
        "threads": given.threads,
        "clock": "process CPU time" if given.cpu_time else "wall",
        "graph_size": {
            "p50_ms_of_each_process": {name: [size[name] for size in sizes] for name in sizes[0]},
            "python_over_cpp": compare(sizes, "python", "cpp"),
            "cpp_over_bare": compare(sizes, "cpp", "bare"),
            "bare_over_bare": compare(sizes, "again", "bare"),
            "cpp_minus_bare_ms": float(np.median([size["cpp"] - size["bare"] for size in sizes])),
        },
        "images": [
            {
                **{key: photo[key] for key in ("name", "size")},
                "labels_equal": all(one["images"][number]["labels_equal"] for one in found),
                "python_over_cpp": compare([o["images"][number]["p50_ms"] for o in found], "python", "cpp"),
            }
            for number, photo in enumerate(found[0]["images"])
        ],
    }
    for name in sizes[0]:
        print(f"{name:7s} {np.median([size[name] for size in sizes]):9.3f} ms")
    print(
        json.dumps({k: v for k, v in results["graph_size"].items() if "over" in k or "minus" in k}, indent=1)
    )
    for photo in results["images"]:
        print(json.dumps(photo))
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
