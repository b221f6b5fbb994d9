"""The verb `engine`: engines of a bundle, built or added where they are to run; needs no PyTorch.

An engine counts as proven once it gave a bundle's reference results on a GPU (`bundles.proofs`). Where it can
run, `build` and `add` run it first and refuse one that does not agree; elsewhere it is `built, not run`.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import sha256
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.tensorrt.build import (
    FOLDER,
    build_engine,
    engine_name,
    graph_of,
    graph_sha256,
    put_file,
)
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.backends.tensorrt.options import EngineOptions, targets
from clouds_deploy.backends.tensorrt.preflight import runs_here
from clouds_deploy.backends.tensorrt.session import open_engine
from clouds_deploy.backends.tensorrt.shapes import Shapes, engine_config, graph_shapes
from clouds_deploy.bundles.bundle import Bundle, open_bundle
from clouds_deploy.bundles.changing import changed
from clouds_deploy.bundles.proofs import NOT_RUN, state
from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.config.export import EngineKnobs, Range
from clouds_deploy.console import busy, say
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.inference.selftest import replayed

_TRTEXEC_KNOBS = {
    "optimization_level": "--builderOptimizationLevel={}",
    "max_aux_streams": "--maxAuxStreams={}",
    "version_compatible": "--versionCompatible",
    "hardware_compatible": "--hardwareCompatibilityLevel=ampere+",
    "weight_streaming": "--allowWeightStreaming",
}
"""`trtexec`'s words for the builder's options."""


def engine_build(
    bundle: str | Path,
    *,
    engine: str = "tensorrt",
    sms: Sequence[str] = (),
    batch: Range | None = None,
    engine_options: Mapping[str, str] | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Builds engines of all graphs of a bundle on this machine and adds them to it.

    Args:
        bundle: A folder or a `.clouds` file; its graphs are built as they were sealed, in their precision.
        engine: `tensorrt`, or `tensorrt-rtx`.
        sms: Compute capabilities to build for, TensorRT-RTX only; none takes this GPU's, or the recipe's.
        batch: Smallest, most likely and largest number of images; None means the recipe's.
        engine_options: Values of `config.export.EngineKnobs` by name, over the recipe's.
        out: Where the bundle with the engines goes; None changes the bundle's folder.

    Returns:
        `bundle`, `engines` (each entry of `bundle.json` with its `state`).

    Raises:
        CloudsError: It is no bundle; the engine is not installed or its builder refuses the graph; the engine
            ran here and does not agree with the bundle's reference.
    """
    opened = open_bundle(Path(bundle))
    if engine not in ENGINES:
        raise CloudsError(f"there is no engine `{engine}`", nearest(engine, ENGINES))
    config = engine_config(opened)
    options = EngineOptions(
        engine,
        targets(engine, sms, config.sms),
        batch or config.batch,
        config.knobs(engine_options),
    )
    shapes = shapes_of(opened, options.batch)
    place = None if out is None else Path(out)
    with changed(opened, place) as (folder, entries):
        for graph, profile in shapes.items():
            with busy(f"building {graph} with {engine}"):
                entry = build_engine(folder / f"{graph}.onnx", folder / FOLDER, options, profile)
            entries[:] = [old for old in entries if old["file"] != entry["file"]]
            entries.append(entry)
        _prove(opened, folder, entries, engine)
    return engine_list(place or opened.origin)


def engine_add(
    bundle: str | Path,
    file: str | Path,
    *,
    graph: str | None = None,
    engine: str = "tensorrt",
    version: str | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Adds an engine that was built elsewhere, by `trtexec` for example, from one of the bundle's graphs.

    Args:
        bundle: A folder or a `.clouds` file.
        file: The engine ("plan").
        graph: The graph that it was built from; may be left out for a segmenter, which has one.
        engine: What built it.
        version: Version of what built it; None takes the one that is installed here.
        out: Where the bundle with the engine goes; None changes the bundle's folder.

    Returns:
        See `engine_build`.

    Raises:
        CloudsError: There is no such file or graph; the version is not known; the engine ran here and does
            not agree with the bundle's reference.
    """
    opened, plan = open_bundle(Path(bundle)), Path(file)
    if engine not in ENGINES:
        raise CloudsError(f"there is no engine `{engine}`", nearest(engine, ENGINES))
    if graph is None and len(opened.graphs) > 1:
        raise CloudsError(f"{plan} may be of {' or '.join(opened.graphs)}", "say which with --graph")
    graph = graph or next(iter(opened.graphs))
    if graph not in opened.graphs:
        raise CloudsError(f"{opened.origin} has no graph `{graph}`", nearest(graph, opened.graphs))
    make = f"make it by what `clouds-deploy engine command {opened.origin}` prints"
    if not plan.is_file():
        raise CloudsError(f"there is no file {plan}", make)
    if plan.stat().st_size == 0:
        raise CloudsError(f"{plan} is empty", make)
    machine = Machine.here()
    version = version or machine.versions.get(engine)
    if version is None:
        raise CloudsError(f"{engine} is not installed, so its version is not known", "say it with --version")
    built_on = machine.built_on(engine) if machine.sm else None
    name = engine_name(graph, engine, version, (), built_on)
    place = None if out is None else Path(out)
    with changed(opened, place) as (folder, entries):
        target = folder / FOLDER / f"{name}.engine"
        target.parent.mkdir(exist_ok=True)
        put_file(plan, target)
        entries[:] = [old for old in entries if old["file"] != f"{FOLDER}/{target.name}"]
        entries.append(
            {
                "file": f"{FOLDER}/{target.name}",
                "engine": engine,
                "version": version,
                "sms": [],
                "batch": list(engine_config(opened).batch),
                "bytes": target.stat().st_size,
                "sha256": sha256(target),
                "graph_sha256": graph_sha256(folder / f"{graph}.onnx"),
                "built_on": built_on,
                "added": plan.name,
            }
        )
        _prove(opened, folder, entries, engine)
    return engine_list(place or opened.origin)


def engine_list(bundle: str | Path) -> dict[str, Any]:
    """The engines of a bundle and where each was run; see `engine_build` for what is returned."""
    opened = open_bundle(Path(bundle))
    entries = [{**entry, "state": state(opened.origin, entry, None)} for entry in opened.engines]
    return {"bundle": str(opened.origin), "engines": entries}


def engine_remove(bundle: str | Path, file: str, *, out: str | Path | None = None) -> dict[str, Any]:
    """Takes an engine out of a bundle; see `engine_build` for `out` and what is returned.

    Args:
        bundle: A folder or a `.clouds` file.
        file: The engine's file, with or without its folder.
        out: See `engine_build`.

    Raises:
        CloudsError: It has no such engine.
    """
    opened = open_bundle(Path(bundle))
    names = [str(entry["file"]) for entry in opened.engines]
    found = [name for name in names if file in (name, Path(name).name)]
    if not found:
        raise CloudsError(
            f"{opened.origin} has no engine `{file}`", nearest(file, [Path(n).name for n in names])
        )
    place = None if out is None else Path(out)
    with changed(opened, place) as (folder, entries):
        for entry in [one for one in entries if one["file"] == found[0]]:
            (folder / found[0]).unlink()
            if "listing" in entry:
                (folder / str(entry["listing"])).unlink(missing_ok=True)
            entries.remove(entry)
        if (folder / FOLDER).is_dir() and not any((folder / FOLDER).iterdir()):
            (folder / FOLDER).rmdir()
    return engine_list(place or opened.origin)


def engine_command(
    bundle: str | Path, *, batch: Range | None = None, engine_options: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The `trtexec` lines that build the engines of a bundle's graphs, and those that add them.

    Args:
        bundle: A folder or a `.clouds` file.
        batch: See `engine_build`.
        engine_options: See `engine_build`.

    Returns:
        `bundle`, `commands` (shell lines).
    """
    opened = open_bundle(Path(bundle))
    config = engine_config(opened)
    knobs = config.knobs(engine_options)
    lines = []
    for graph, shapes in shapes_of(opened, batch or config.batch).items():
        plan = f"{graph}.plan"
        words = ["trtexec", f"--onnx={opened.file(graph)}", f"--saveEngine={plan}", "--stronglyTyped"]
        words += _shape_words(opened.graphs[graph].inputs, shapes)
        words += _knob_words(knobs)
        lines.append(shlex.join(words))
        lines.append(
            shlex.join(["clouds-deploy", "engine", "add", str(opened.origin), plan, "--graph", graph])
        )
    return {"bundle": str(opened.origin), "commands": lines}


def _shape_words(inputs: Sequence[TensorSpec], shapes: Shapes) -> list[str]:
    """Profiles in `trtexec`'s words; inputs of one shape only need none."""
    free = [spec.name for spec in inputs if None in spec.shape]
    if not free:
        return []
    kinds = ("min", "opt", "max")
    return [
        f"--{kind}Shapes=" + ",".join(f"{name}:{'x'.join(map(str, shapes[name][i]))}" for name in free)
        for i, kind in enumerate(kinds)
    ]


def _knob_words(knobs: EngineKnobs) -> list[str]:
    words = [] if knobs.tf32 else ["--noTF32"]
    if knobs.workspace_mib is not None:
        words.append(f"--memPoolSize=workspace:{knobs.workspace_mib}M")
    for name, word in _TRTEXEC_KNOBS.items():
        value = getattr(knobs, name)
        if value not in (None, False):
            words.append(word.format(value))
    return words


def shapes_of(bundle: Bundle, batch: Range) -> dict[str, Shapes]:
    """Optimisation profiles of all graphs of a bundle."""
    vocabulary = bundle.vocabulary()
    feeds = {} if vocabulary is None else vocabulary.feeds(bundle.inputs, str(bundle.path))
    own = {name: array.shape for name, array in feeds.items()}
    return graph_shapes(bundle.graphs, engine_config(bundle), batch, own)


def _prove(bundle: Bundle, folder: Path, entries: list[dict[str, Any]], engine: str) -> None:
    """Runs engines where they can run here, and refuses those that do not agree with the bundle's reference.

    Raises:
        CloudsError: One ran and does not agree.
    """
    machine = Machine.here()
    newest = {graph_of(entry): entry for entry in entries if entry["engine"] == engine}
    if not runs_here(newest.values(), machine) or len(newest) < len(bundle.graphs):
        for entry in newest.values():
            say(f"  engine       {Path(entry['file']).name}: {NOT_RUN}")
        return
    copy = Bundle(
        folder,
        bundle.kind,
        bundle.manifest,
        bundle.graphs,
        {**bundle.facts, "engines": list(newest.values())},
        folder,
    )
    options = Options("cuda:0")
    sessions = [open_engine(engine, graph, copy, options) for graph in bundle.graphs]
    with busy("comparing with the bundle's reference"):
        checks = replayed(copy, sessions, "fp32")
    failed = [f"{one.name} {one.value:.4f} of {one.limit:g}" for one in checks if not one.passed]
    if failed:
        raise CloudsError(
            f"the engine does not agree with {bundle.origin}: {', '.join(failed)}",
            "build it from this bundle's graph: clouds-deploy engine build, or engine command",
            exit_code=1,
        )
    for entry in newest.values():
        entry["run_on"] = machine.built_on(engine)
        say(f"  engine       {Path(entry['file']).name}: proven on {machine.gpu}")
