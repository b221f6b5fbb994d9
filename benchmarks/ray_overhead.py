"""What `--runner ray` costs on one machine: two workers of a core each, against the local runner with both.

    python benchmarks/ray_overhead.py BUNDLE --out benchmarks/results/ray_overhead.json

Ray (`pip install "clouds-deploy[ray]"`) runs as two machines of a core each on this one, started before
anything is timed. `predict` labels the same shards with both runners, interleaved, into new folders, from the
command's beginning to its end: beside it, each of Ray's workers starts a process and loads the model. A job
of two images says what that costs, the difference between the jobs what each further image does. The results
are compared byte by byte.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from PIL import Image

from clouds_deploy.artifacts import environment, sha256, write_json
from clouds_deploy.bench.timing import measure, ratio
from clouds_deploy.streets import render

ROOT = Path(__file__).parent.parent
HEIGHT, WIDTH = 360, 640


def draw_shards(folder: Path, shards: int, images: int) -> Path:
    """Draw photo-like streets into shards."""
    folder.mkdir()
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as tar:
            for number in range(images):
                file = folder / "street.png"
                Image.fromarray(render("photo", shard, number, HEIGHT, WIDTH).image).save(file)
                tar.add(file, f"{shard:03d}_{number:03d}.png")
                file.unlink()
    return folder


def main() -> None:
    """Measure, print and write."""
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=lambda text: Path(text).absolute())
    parser.add_argument("--out", type=Path)
    parser.add_argument("--shards", type=int, default=12)
    parser.add_argument("--images", type=int, default=32, help="in a shard")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    os.environ["RAY_ADDRESS"] = cluster.address
    with tempfile.TemporaryDirectory() as place:
        root, number = Path(place), itertools.count()
        jobs = {
            "two images": draw_shards(root / "small", 2, 1),
            "all images": draw_shards(root / "large", given.shards, given.images),
        }
        made: dict[tuple[str, str], Path] = {}

        def label(job: str, runner: str) -> None:
            shutil.rmtree(made.get((job, runner), root / "none"), ignore_errors=True)
            made[job, runner] = root / f"out{next(number)}"
            words = ["predict", given.bundle, jobs[job], "--out", made[job, runner], "--runner", runner]
            command = [sys.executable, "-m", "clouds_deploy", *map(str, words), "--no-overlays"]
            subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

        report: dict[str, Any] = {
            "environment": environment(),
            "load_average_before": os.getloadavg()[0],
            "images": given.shards * given.images,
            "size": [HEIGHT, WIDTH],
            "jobs": {},
        }
        timings = {}
        for job in jobs:
            candidates = {name: lambda job=job, name=name: label(job, name) for name in ("local", "ray")}
            timings[job] = measure(candidates, warmup=1, rounds=given.rounds, seconds=0)
            for path in made[job, "local"].glob("*.tar"):
                assert sha256(path) == sha256(made[job, "ray"] / path.name), path.name
            taken = ratio(timings[job]["ray"], timings[job]["local"])
            report["jobs"][job] = {
                **{f"{name}_s": round(t.percentile(50) / 1e3, 3) for name, t in timings[job].items()},
                "ray_over_local": {name: round(value, 3) for name, value in vars(taken).items()},
            }
        more = report["images"] - 2
        seconds = {n: [timings[job][n].percentile(50) for job in jobs] for n in ("local", "ray")}
        report["ms_per_further_image"] = {n: round((b - a) / more, 2) for n, (a, b) in seconds.items()}
    for key in ("jobs", "ms_per_further_image"):
        print(key, report[key], flush=True)
    if given.out:
        write_json(given.out, report)
    cluster.shutdown()


if __name__ == "__main__":
    main()
