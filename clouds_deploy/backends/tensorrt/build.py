"""Engines, built from a graph or taken from the cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import atomic_directory, cache_folder, discard, read_json, sha256, write_json
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.backends.tensorrt.machine import ENGINES
from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.errors import CloudsError

FOLDER = "engines"
"""Folder of a bundle's engines."""
_TIME_LIMIT = 3600
_FORMAT = 1

Shapes = Mapping[str, Sequence[Sequence[int]]]


def engine_version(engine: str) -> str:
    """Version of TensorRT or TensorRT-RTX that is installed.

    Raises:
        CloudsError: It is not.
    """
    try:
        return importlib.metadata.version(engine)
    except importlib.metadata.PackageNotFoundError:
        raise CloudsError(
            f"{engine} is not installed", f'pip install "clouds-deploy[{engine}]" on the machine that builds'
        ) from None


def profiles(
    inputs: Sequence[TensorSpec], batch: tuple[int, int, int], others: Mapping[str, Sequence[int]]
) -> dict[str, list[list[int]]]:
    """Smallest, most likely and largest shape of every input.

    Args:
        inputs: What the graph takes; the first axis of an image is the batch.
        batch: Smallest, most likely and largest.
        others: Shapes of the inputs beside the image; an engine takes them in these shapes only.

    Returns:
        By the input's name its three shapes.
    """
    out = {}
    for spec in inputs:
        if spec.name in others:
            out[spec.name] = [list(others[spec.name])] * 3
        else:
            out[spec.name] = [[size if d is None else d for d in spec.shape] for size in batch]
    return out


def build_engine(graph: Path, out: Path, options: EngineOptions, shapes: Shapes) -> dict[str, Any]:
    """Builds one engine into a folder, or takes it from the cache, where the same graph was built before.

    Args:
        graph: A typed ONNX file: engines are built strongly typed, they do what it says.
        out: The folder for the engine; its name tells engine, version and target.
        options: What it is built for.
        shapes: See `profiles`.

    Returns:
        file, engine, version, sms, batch, bytes, sha256, graph_sha256, seconds (of the build, even when
        it was cached), cached, layers (products and convolutions by type), and the other options.

    Raises:
        CloudsError: The engine is not installed; its parser refuses the graph, with the node; the build
            failed, crashed or took more than an hour.
    """
    version = engine_version(options.engine)
    job = {**options.to_json(), "shapes": {k: [list(s) for s in v] for k, v in shapes.items()}}
    graph_hash = _graph_hash(graph)
    key = json.dumps([_FORMAT, graph_hash, version, job], sort_keys=True)
    entry = cache_folder(FOLDER) / hashlib.sha256(key.encode()).hexdigest()[:32]
    cached = (entry / "facts.json").is_file()
    if not cached:
        with atomic_directory(entry, shared="facts.json") as folder:
            found = _run_worker(graph, folder / "engine", options, shapes)
            write_json(folder / "facts.json", {**found, "sha256": sha256(folder / "engine")})
    facts = read_json(entry / "facts.json")
    if sha256(entry / "engine") != facts["sha256"]:
        discard(entry)
        return build_engine(graph, out, options, shapes)
    targets = "_".join(f"sm{sm}" for sm in options.sms) or "this_gpu"
    name = f"{graph.stem}-{options.engine}-{version}-{targets}.engine"
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(entry / "engine", out / name)
    return {
        "file": f"{out.name}/{name}",
        **options.to_json(),
        "graph_sha256": graph_hash,
        "cached": cached,
        **facts,
    }


def _graph_hash(graph: Path) -> str:
    """Hash of a graph and the weights beside it."""
    parts = [sha256(path) for path in sorted(graph.parent.glob(f"{graph.name}*"))]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _run_worker(graph: Path, out: Path, options: EngineOptions, shapes: Shapes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        job, result = Path(folder) / "job.json", Path(folder) / "result.json"
        write_json(
            job,
            {
                **options.to_json(),
                "module": ENGINES[options.engine],
                "graph": str(graph),
                "out": str(out),
                "profiles": shapes,
            },
        )
        command = [sys.executable, str(Path(__file__).with_name("worker.py")), str(job), str(result)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIME_LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise CloudsError(
                f"the build with {options.engine} took more than {_TIME_LIMIT} s",
                "use a smaller --batch or graph",
                exit_code=1,
            ) from None
        if done.returncode != 0 or not result.is_file():
            last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
            raise CloudsError(
                f"{options.engine}'s builder ended with {done.returncode}: {last}",
                "if it ran out of memory, use a smaller --batch; else check that its own samples build",
                exit_code=1,
            )
        found: dict[str, Any] = read_json(result)
    if "error" in found:
        said = "; ".join(found["heard"][-3:])
        raise CloudsError(
            f"{options.engine} built no engine of {graph.name}: {found['error']}"
            + (f" ({said})" if said else ""),
            "report it with the recipe: an exported graph should build on every engine",
            exit_code=1,
        )
    return found
