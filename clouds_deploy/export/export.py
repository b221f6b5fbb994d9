"""`export`: a run or a SAM becomes a bundle.

The graphs are traced, proven, brought to the precision that was asked for, proven again, built into engines
and sealed with their evidence. What differs between segmenters and SAMs is behind `Subject`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from clouds_deploy.artifacts import write_json, write_manifest
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.backends.backends import GRAPH_BACKENDS, check_graph_backends, runs
from clouds_deploy.backends.device import resolve_device
from clouds_deploy.backends.tensorrt.build import FOLDER, build_engine, engine_version, graph_of
from clouds_deploy.backends.tensorrt.machine import ENGINES, Machine
from clouds_deploy.backends.tensorrt.options import EngineOptions, targets
from clouds_deploy.backends.tensorrt.preflight import runs_here
from clouds_deploy.bundles.bundle import FACTS, GATES, REFERENCE
from clouds_deploy.bundles.packed import packing
from clouds_deploy.bundles.proofs import NOT_RUN
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.export import ExportOptions
from clouds_deploy.config.section import make_options
from clouds_deploy.console import busy, say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.gates import FP32, Gate, engine_gate, require_passed
from clouds_deploy.export.half import Typed, rounded
from clouds_deploy.export.int8 import Quantized
from clouds_deploy.export.lint import require_clean
from clouds_deploy.export.subject import Subject
from clouds_deploy.export.trace import save

if TYPE_CHECKING:
    import onnx_ir as ir

SAM = "sam:"
NO_ENGINE = "none"
"""In the place of engines: build none."""


def export(run: str | Path, *, out: str | Path, **options: Any) -> dict[str, Any]:
    """Exports a run or a SAM to a bundle that passed its gates, a folder or one `.clouds` file.

    Args:
        run: A finished run's folder, or `sam:NAME`, see `models.sam.build.load_sam`; with
            `weights="random"` a training recipe, for a dry run.
        out: The bundle; must not exist.
        options: Fields of `config.export.ExportOptions`.

    Returns:
        `out`, `gates` (each `Gate.to_json`), `nodes`, `raw_nodes` (before simplification), `size_mib`,
        `precision`, `random_weights`, `engines` (what `build_engine` returned); of a segmenter `height`,
        `width` and `backbone_weights`, of a SAM `image_size` and `weights`; with `calibrate`, `calibration`:
        how many `images` were taken, and the files left out as `label_maps` or `passed_over`.

    Raises:
        CloudsError: The run does not hold; an option is unknown or does not fit; an engine or a backend is
            unknown or not installed; a gate failed, or an engine could not be built (exit code 1; nothing is
            left behind but a reproducer of the fault).
    """
    asked = make_options(ExportOptions, options)
    _check(asked)
    device = resolve_device(asked.device, "torch")
    with packing(Path(out)) as folder, _subject(str(run), asked, device) as subject:
        made = make_bundle(subject, folder, Path(out))
    return {**made, "out": str(out)}


def _check(options: ExportOptions) -> tuple[str, tuple[str, ...], list[str]]:
    """The precision, the backends that prove it and the engines to build, refused where they don't fit."""
    named = options.engines
    if named is None:
        named = (*GRAPH_BACKENDS, *(installed_engines() if options.fp16 else ()))
    provers = tuple(name for name in named if name not in (*ENGINES, NO_ENGINE)) or ("onnxruntime",)
    built = [name for name in named if name in ENGINES]
    check_graph_backends(provers)
    for name in built:
        engine_version(name)
    if options.sms and "tensorrt-rtx" not in built:
        raise CloudsError("--sm is for TensorRT-RTX", "add --engine tensorrt-rtx")
    if options.engine_options and not built:
        raise CloudsError("--engine-option is for engines", "add --engine tensorrt or tensorrt-rtx")
    return options.precision, provers, built


def installed_engines() -> tuple[str, ...]:
    """Engines that can be built here: TensorRT needs a GPU for that, TensorRT-RTX does not."""
    machine = Machine.here()
    return tuple(name for name in machine.versions if name != "tensorrt" or machine.sm is not None)


@contextmanager
def _subject(run: str, options: ExportOptions, device: str) -> Iterator[Subject]:
    if run.startswith(SAM):
        from clouds_deploy.export.sam import SamSubject
        from clouds_deploy.models.sam.build import load_seeded

        yield SamSubject(load_seeded(run.removeprefix(SAM), options.weights), options, device)
        return
    from clouds_deploy.config.shipped import load_recipe
    from clouds_deploy.export.segmenter import SegmenterSubject
    from clouds_deploy.models.clouds.store import random_run

    if options.weights is None:
        yield SegmenterSubject(Path(run), options, device)
    elif options.weights == "random" and not Path(run).is_dir():
        with random_run(load_recipe(run)) as untrained:
            yield SegmenterSubject(untrained, options, device)
    else:
        raise CloudsError(
            "--weights is for SAMs: a run has its own",
            "leave it out; or give sam:NAME, or a recipe's name with --weights random for a dry run",
        )


def make_bundle(subject: Subject, folder: Path, out: Path) -> dict[str, Any]:
    """Fills a folder with the bundle of a subject that was opened; see `export`.

    Args:
        subject: What is exported.
        folder: An empty folder.
        out: The bundle's final place, beside which a reproducer of a fault is written.
    """
    precision, provers, names = _check(subject.options)
    config = subject.limits.engine
    batch, knobs = subject.options.batch or config.batch, config.knobs(subject.options.engine_options)
    builds = [EngineOptions(n, _targets(n, subject), batch, knobs) for n in names]
    facts = subject.facts
    built = f", engines of {' and '.join(names)}" if names else ""
    say(f"  export       {precision}, proven on {' and '.join(provers)}, PyTorch on {subject.device}{built}")
    with busy(f"tracing {subject.what} into ONNX"):
        traced = subject.trace()
    models = {name: one.model for name, one in traced.items()}
    with busy("computing in PyTorch what is right"):
        subject.compute_reference()
    nodes = _write(subject, models, folder)
    gates = _prove(subject, folder, FP32, provers)
    require_passed(gates, partial(subject.explain, folder=folder, original=None, out=out))
    lowered: Mapping[str, Typed | Quantized] = {}
    if precision != FP32:
        with busy(f"bringing {subject.what} to {precision}"):
            lowered = subject.lower(models, precision)
        nodes = _write(subject, {name: one.model for name, one in lowered.items()}, folder)
        gates += subject.precision_gates(folder, precision)
        gates += _prove(subject, folder, precision, [name for name in provers if runs(name, precision)])
        gates += _prove_rounded(subject, precision, lowered)
        require_passed(gates, partial(subject.explain, folder=folder, original=models, out=out))
    gates += subject.measure(folder, [name for name in provers if runs(name, precision)], precision)
    require_passed(gates)
    for path in folder.glob("*.onnx*"):
        if path.name.partition(".")[0] not in models:
            path.unlink()  # a graph that only the gates needed

    size = sum(path.stat().st_size for path in folder.glob("*.onnx*"))
    facts |= {"nodes": nodes, "raw_nodes": sum(one.raw_nodes for one in traced.values()), "bytes": size}
    facts["flops"] = subject.flops(folder)
    facts["engines"] = []
    for name, engine in _build(subject, folder, builds):
        facts["engines"].append(engine)
        if lowered:
            made = lowered[name]
            of = made.products if isinstance(made, Quantized) else None
            gates.append(engine_gate(engine, subject.limits.flops(precision), precision, of))
    gates += _prove_engines(subject, folder, precision, facts["engines"])
    require_passed(gates)
    subject.pack(folder)
    save_arrays(folder / REFERENCE, subject.reference())
    write_json(folder / FACTS, facts)
    found = [gate.to_json() for gate in gates]
    write_json(folder / GATES, {"images": len(subject.images), "gates": found})
    write_manifest(
        folder,
        subject.kind,
        **subject.manifest(),
        **{key: facts[key] for key in (subject.weights, "random_weights")},
        engines=list(provers),
        built=[engine["file"] for engine in facts["engines"]],
        precision=precision,
        gates=found,
        nodes=nodes,
        device=subject.device,
    )
    before = f"({facts['raw_nodes']} before simplification)"
    say(f"  export       {nodes} nodes {before}, {size / 2**20:.1f} MiB, all gates passed")
    if facts["random_weights"]:
        warn("the weights are RANDOM: this bundle is a dry run, what it gives means nothing")
    told = (*subject.summary, subject.weights, "random_weights", "precision", "nodes", "raw_nodes", "engines")
    return {"gates": found, "size_mib": size / 2**20, **{key: facts[key] for key in told}, **subject.choices}


def _write(subject: Subject, models: Mapping[str, ir.Model], folder: Path) -> int:
    """Writes graphs in the place of earlier ones and checks them; returns the nodes of the shipped ones."""
    for path in folder.glob("*.onnx*"):
        path.unlink()
    nodes = 0
    for name, model in subject.files(models).items():
        path = folder / f"{name}.onnx"
        save(model, path, subject.metadata() if name in models else {}, name)
        if name in models:
            require_clean(onnx.load(str(path), load_external_data=False), subject.free)
            nodes += len(list(model.graph))
    return nodes


def _prove(subject: Subject, folder: Path, precision: str, engines: Sequence[str]) -> list[Gate]:
    gates = []
    for engine in engines:
        label = engine if precision == FP32 else f"{engine} {precision}"
        with busy(f"proving {subject.what} in {precision} on {engine}"):
            gates += subject.prove(engine, folder, precision, label)
    return gates


def _prove_rounded(subject: Subject, precision: str, lowered: Mapping[str, Typed | Quantized]) -> list[Gate]:
    """Compares half-precision graphs as a GPU would compute them; see `half.rounded`."""
    typed = {name: one for name, one in lowered.items() if isinstance(one, Typed)}
    if not typed:
        return []
    with (
        Scratch() as temporary,
        busy(f"proving {subject.what} with every {precision} tensor rounded"),
    ):
        for name, one in typed.items():
            save(rounded(one.model), temporary / f"{name}.onnx", {})
        return subject.prove("onnxruntime", temporary, precision, f"rounded {precision}", rounded=True)


def _build(
    subject: Subject, folder: Path, builds: Sequence[EngineOptions]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Builds every engine of every graph; yields the graph's name and what `build_engine` returned."""
    for options in builds:
        for name, shapes in subject.profiles(options.batch).items():
            with busy(f"building {name} with {options.engine}"):
                built = build_engine(folder / f"{name}.onnx", folder / FOLDER, options, shapes)
            yield name, built


def _targets(engine: str, subject: Subject) -> tuple[str, ...]:
    return targets(engine, subject.options.sms if engine != "tensorrt" else (), subject.limits.engine.sms)


def _prove_engines(
    subject: Subject, folder: Path, precision: str, entries: Sequence[dict[str, Any]]
) -> list[Gate]:
    """Runs engines through the gates of the other backends, where a GPU that they run on is at hand."""
    machine, gates = Machine.here(), []
    for engine in dict.fromkeys(str(entry["engine"]) for entry in entries):
        own = [entry for entry in entries if entry["engine"] == engine]
        if not runs_here(own, machine):
            say(f"  engine       {engine}: {NOT_RUN}, there is no GPU here that it runs on")
            continue
        subject.engines = {folder / f"{graph_of(entry)}.onnx": folder / entry["file"] for entry in own}
        gates += _prove(subject, folder, precision, [engine])
        subject.engines = {}
        for entry in own:
            entry["run_on"] = machine.built_on(engine)
    return gates


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Writes a .npz whose bytes depend on the arrays alone, uncompressed: an embedded runtime has no zlib."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, always
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
