"""Engines, built from a graph or taken from the cache."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import atomic_directory, cache_folder, discard, read_json, sha256, write_json
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.backends.tensorrt.shapes import Shapes
from clouds_deploy.errors import CloudsError

FOLDER = "engines"
"""Folder of a bundle's engines."""
_TIME_LIMIT = 3600
_FORMAT = 2


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


def build_engine(graph: Path, out: Path, options: EngineOptions, shapes: Shapes) -> dict[str, Any]:
    """Builds one engine into a folder, or takes it from the cache, where the same graph was built before.

    Args:
        graph: A typed ONNX file: engines are built strongly typed, they do what it says.
        out: The folder for the engine; its name tells engine, version and target.
        options: What it is built for.
        shapes: See `shapes.graph_shapes`.

    Returns:
        file, listing (a JSON file of its layers), engine, version, sms, batch, bytes, sha256, graph_sha256,
        built_on (`Machine.built_on`; of an engine for listed SMs null), seconds (of the build, even when it
        was cached), cached, layers (products and convolutions by type), and the builder's other options.

    Raises:
        CloudsError: The engine is not installed; its parser refuses the graph, with the node; the build
            failed, crashed or took more than an hour.
    """
    version = engine_version(options.engine)
    job = {**options.to_json(), "shapes": {k: [list(s) for s in v] for k, v in shapes.items()}}
    graph_hash = graph_sha256(graph)
    machine = Machine.here()
    built_on = None if options.sms else machine.built_on(options.engine)
    key = json.dumps([_FORMAT, graph_hash, version, built_on, job], sort_keys=True)
    entry = cache_folder(FOLDER) / hashlib.sha256(key.encode()).hexdigest()[:32]
    cached = (entry / "facts.json").is_file()
    if not cached:
        with atomic_directory(entry, shared="facts.json") as folder:
            found = _run_worker(graph, folder / "engine", options, shapes, machine)
            write_json(folder / "listing.json", found.pop("listing"))
            write_json(folder / "facts.json", {**found, "sha256": sha256(folder / "engine")})
    facts = read_json(entry / "facts.json")
    if sha256(entry / "engine") != facts["sha256"]:
        discard(entry)
        return build_engine(graph, out, options, shapes)
    name = engine_name(graph.stem, options.engine, version, options.sms, built_on)
    out.mkdir(parents=True, exist_ok=True)
    put_file(entry / "engine", out / f"{name}.engine")
    put_file(entry / "listing.json", out / f"{name}.layers.json")
    return {
        "file": f"{out.name}/{name}.engine",
        "listing": f"{out.name}/{name}.layers.json",
        **options.to_json(),
        "graph_sha256": graph_hash,
        "built_on": built_on,
        "cached": cached,
        **facts,
    }


def engine_name(
    graph: str, engine: str, version: str, sms: Sequence[str], built_on: Mapping[str, str | None] | None
) -> str:
    """Name of an engine's file without its ending: graph, engine, version and what it runs on."""
    own = (built_on or {}).get("sm")
    targets = "_".join(f"sm{sm}" for sm in sms) or (f"on_sm{own}" if own else "this_gpu")
    return f"{graph}-{engine}-{version}-{targets}"


def graph_of(entry: Mapping[str, Any]) -> str:
    """Name of the graph that an engine was built from, by its file's name; see `engine_name`."""
    return Path(str(entry["file"])).name.partition(f"-{entry['engine']}-")[0]


def put_file(source: Path, target: Path) -> None:
    """Copies a file to a name that may be another link to a sealed file: those bytes stay as they are."""
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)


def graph_sha256(graph: Path) -> str:
    """Hash of a graph and the weights beside it."""
    parts = [sha256(path) for path in sorted(graph.parent.glob(f"{graph.name}*"))]
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def _timing_cache(engine: str, machine: Machine) -> str | None:
    """File of the times that kernels took in TensorRT's earlier builds with this version on this GPU."""
    if engine != "tensorrt":
        return None
    folder = cache_folder("timing")
    folder.mkdir(parents=True, exist_ok=True)
    gpu = re.sub(r"\W+", "_", machine.gpu or "gpu")
    return str(folder / f"{engine}-{machine.versions.get(engine, '')}-{gpu}.cache")


def _run_worker(
    graph: Path, out: Path, options: EngineOptions, shapes: Shapes, machine: Machine
) -> dict[str, Any]:
    with Scratch() as folder:
        job, result = folder / "job.json", folder / "result.json"
        write_json(
            job,
            {
                **options.to_json(),
                "module": ENGINES[options.engine],
                "graph": str(graph),
                "out": str(out),
                "profiles": shapes,
                "timing_cache": _timing_cache(options.engine, machine),
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
