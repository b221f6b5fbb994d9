"""`export`: a run becomes a bundle, proven before it is written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clouds_deploy.artifacts import MANIFEST, atomic_directory, sha256, write_json, write_manifest
from clouds_deploy.backends.backends import GRAPH_BACKENDS, check_graph_backends, runs
from clouds_deploy.backends.tensorrt.build import FOLDER, build_engine, engine_version, profiles
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.bundles.bundle import FACTS, GATES, GRAPH, KIND, REFERENCE, SOURCE
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.bundles.vocabulary import FILE as VOCABULARY_FILE
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.export import ExportConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.console import busy, say, warn
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.export.bisect import explain
from clouds_deploy.export.flops import flops_by_type
from clouds_deploy.export.gates import BATCH, Gate, drawn_images, prove, reference, require_passed
from clouds_deploy.export.int8 import evenly
from clouds_deploy.export.lint import require_clean
from clouds_deploy.export.lowered import FP32, Lowered, lower, precision_of
from clouds_deploy.export.task import task_gates
from clouds_deploy.export.trace import drop_scores, save, to_onnx
from clouds_deploy.inference.letterbox import fit
from clouds_deploy.labels import CLASSES, NAMES, NUM_CLASSES
from clouds_deploy.models.clouds.graph import SegmenterGraph
from clouds_deploy.models.clouds.names import INPUT, LABELS, SCORES, SHARE, VOCABULARY
from clouds_deploy.models.clouds.segmenter import Inference, Segmenter
from clouds_deploy.models.clouds.store import FROZEN, RECIPE, TRAINED, load_run

if TYPE_CHECKING:
    import onnx_ir as ir

    from clouds_deploy.data.sources import Source

REFERENCE_IMAGES = 4
_GATE_GRAPH = "with_scores.onnx"


def export(
    run: Path,
    out: Path,
    *,
    engines: Sequence[str] = GRAPH_BACKENDS,
    scores: bool = False,
    inference: str = "exact",
    images: Path | Sequence[Path] | None = None,
    height: int | None = None,
    width: int | None = None,
    include_source: bool = True,
    fp16: bool = False,
    bf16: bool = False,
    int8: bool = False,
    calibrate: Path | Sequence[Path] | None = None,
    task: Source | None = None,
    builds: Sequence[EngineOptions] = (),
) -> dict[str, Any]:
    """Export a run to ONNX, prove it on every runtime named, and seal it with its evidence.

    Args:
        run: A finished run; it is only read.
        out: The bundle's directory; must not exist.
        engines: Runtimes that have to pass the gates.
        scores: Whether the graph gives class scores too; the gates look at scores either way.
        inference: `exact` or `fast`; see `Segmenter.scores`.
        images: Images, or a folder of them, that the gates look at beside drawn streets.
        height: Image height of the graph; the recipe's by default.
        width: Image width of the graph; the recipe's by default.
        include_source: Whether to pack the weights too, which lets the bench time PyTorch.
        fp16: Whether the bundle's graph is the FP16 one; the float32 one then passes its gates on the way.
        bf16: The same in BF16.
        int8: The same with the backbone's products in INT8.
        calibrate: INT8 only: images, or a folder of them, that the ranges are taken from.
        task: Labelled images, on which the graph may lose only so much mIoU (`export.miou_drop`).
        builds: Engines to build from the graph that passed, each kept in the bundle.

    Returns:
        `out`, `gates` (each `Gate.to_json`), `nodes`, `raw_nodes`, `size_mib`, `height`, `width`,
        `backbone_weights`, `random_weights`, `precision`, `engines` (what `build_engine` gave).

    Raises:
        CloudsError: The run does not hold; an engine is unknown or not installed; a gate failed, or an engine
            could not be built (exit code 1; nothing is left behind).
    """
    for options in builds:
        engine_version(options.engine)
    check_graph_backends(engines)
    if inference not in ("exact", "fast"):
        raise CloudsError(f"there is no inference `{inference}`", nearest(inference, ("exact", "fast")))
    precision = precision_of(fp16, bf16, int8)
    if int8 != (calibrate is not None):
        raise CloudsError(
            "INT8 takes its ranges from images, and nothing else does",
            "give --int8 and --calibrate FOLDER together, or neither",
        )
    mode: Inference = "exact" if inference == "exact" else "fast"
    recipe, segmenter = load_run(run)
    limits = _sized(recipe, height, width)
    recipe = recipe.model_copy(update={"export": limits})
    with atomic_directory(out) as directory:
        with busy("tracing the network into an ONNX graph"):
            exported = to_onnx(segmenter, limits.height, limits.width, inference=mode)
        extra = {name: value.numpy() for name, value in SegmenterGraph(segmenter).extra_inputs().items()}
        if extra:
            vectors = extra[VOCABULARY]
            share = extra.get(SHARE, np.zeros(len(vectors), np.float32))
            Vocabulary(NAMES, vectors, share).save(directory / VOCABULARY_FILE)
        facts = _facts(run, recipe, segmenter, mode, scores, extra)
        pictures = _pictures(limits, images, facts["mean_color"])
        expected = reference(segmenter, pictures, mode)
        shipped = exported.model if scores else drop_scores(exported.model)
        gate_graph = directory / (GRAPH if scores else _GATE_GRAPH)
        _save_both(shipped, exported.model, directory / GRAPH, gate_graph, _metadata(facts))
        with busy(f"proving it on {', '.join(engines)}"):
            gates = [
                gate
                for engine in engines
                for gate in prove(engine, directory / GRAPH, gate_graph, pictures, expected, limits, extra)
            ]
        feeds = {INPUT: pictures[:1], **extra}
        require_passed(gates, lambda gate: _where(gate, gate_graph, None, feeds, out))
        lowered: Lowered | None = None
        if precision != FP32:
            given = None
            if calibrate is not None:
                given = evenly(_fitted(limits, calibrate, facts["mean_color"]), limits.int8.images)
            with busy(f"bringing it to {precision}"):
                lowered = lower(exported.model, precision, limits, pictures, given, extra)
                shipped = lowered.model if scores else drop_scores(lowered.model)
            facts |= lowered.facts()
            _save_both(shipped, lowered.model, directory / GRAPH, gate_graph, _metadata(facts))
            with busy(f"proving it in {precision} on {', '.join(engines)}"):
                gates += lowered.prove(engines, directory / GRAPH, gate_graph, pictures, expected, extra)
            require_passed(gates, lambda gate: _where(gate, gate_graph, exported.model, feeds, out))
        if task is not None:
            suffix, floor = ("", limits) if lowered is None else (f" {precision}", lowered.limits)
            shape, color = (limits.height, limits.width), facts["mean_color"]
            tried = {f"{engine}{suffix}": engine for engine in engines if runs(engine, precision)}
            with busy("measuring mIoU with PyTorch and without"):
                gates += task_gates(
                    tried, directory / GRAPH, segmenter, mode, task, shape, color, extra, floor.miou_drop
                )
            require_passed(gates)
        if len(np.unique(expected[LABELS])) < 2:
            warn("PyTorch gives all test images one class: equal labels prove little, the scores must do")
        for path in directory.glob(f"{_GATE_GRAPH}*"):
            path.unlink()

        kept = {LABELS: expected[LABELS], **({SCORES: expected[SCORES]} if scores else {})}
        packed = {name: array[:REFERENCE_IMAGES] for name, array in {"image": pictures, **kept}.items()}
        save_arrays(directory / REFERENCE, packed)
        nodes, size = len(list(shipped.graph)), sum(p.stat().st_size for p in directory.glob(f"{GRAPH}*"))
        operations = flops_by_type(directory / GRAPH)
        facts |= {"nodes": nodes, "raw_nodes": exported.raw_nodes, "bytes": size, "flops": operations}
        specs = [TensorSpec.from_json(value) for value in facts["inputs"]]
        others = {name: array.shape for name, array in extra.items()}
        built = []
        for options in builds:
            with busy(f"building an engine with {options.engine}"):
                shapes = profiles(specs, options.batch, others)
                built.append(build_engine(directory / GRAPH, directory / FOLDER, options, shapes))
            if lowered is not None:
                gates.append(lowered.prove_engine(built[-1]))
        require_passed(gates)
        facts["engines"] = built
        write_json(directory / FACTS, facts)
        write_json(directory / GATES, {"images": len(pictures), "gates": [gate.to_json() for gate in gates]})
        if include_source:
            _pack_source(run, directory / SOURCE)
        write_manifest(
            directory,
            KIND,
            inputs={"run": facts["run_sha256"]},
            config=recipe.model_dump(mode="json"),
            backbone_weights=facts["backbone_weights"],
            random_weights=facts["random_weights"],
            engines=list(engines),
            built=[engine["file"] for engine in built],
            precision=facts["precision"],
            gates=[gate.to_json() for gate in gates],
            nodes=nodes,
            device="cpu",
            seed=recipe.seed,
        )
    _announce(facts, exported.raw_nodes, nodes, size)
    return {
        "out": str(out),
        "gates": [gate.to_json() for gate in gates],
        "nodes": nodes,
        "raw_nodes": exported.raw_nodes,
        "size_mib": size / 2**20,
        "height": limits.height,
        "width": limits.width,
        "backbone_weights": facts["backbone_weights"],
        "random_weights": facts["random_weights"],
        "precision": facts["precision"],
        "engines": built,
    }


def _where(gate: Gate, graph: Path, original: ir.Model | None, feeds: dict[str, Array], out: Path) -> str:
    """Say where a graph that failed a gate goes wrong; `original` is the float32 one of a typed graph."""
    engine = gate.engine.split()[0]
    if engine not in GRAPH_BACKENDS:
        return "the gate is of the file, not of what it computes"
    if original is None:
        return explain(engine, graph, graph, feeds, out)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / GRAPH
        save(original, path, {})
        return explain(engine, graph, path, feeds, out)


def _sized(recipe: Recipe, height: int | None, width: int | None) -> ExportConfig:
    values = recipe.export.model_dump()
    values |= {k: v for k, v in (("height", height), ("width", width)) if v is not None}
    for name in ("height", "width"):
        if values[name] <= 0 or values[name] % 32:
            raise CloudsError(f"{name} {values[name]} is not a multiple of 32", "choose one that is")
    return type(recipe.export).model_validate(values)


def _facts(
    run: Path,
    recipe: Recipe,
    segmenter: Segmenter,
    inference: Inference,
    scores: bool,
    extra: dict[str, Array],
) -> dict[str, Any]:
    size = (recipe.export.height, recipe.export.width)
    outputs = [TensorSpec(LABELS, "uint8", (None, *size))]
    if scores:
        quarter = (size[0] // 4, size[1] // 4)
        classes = None if extra else NUM_CLASSES
        outputs.append(TensorSpec(SCORES, "float32", (None, classes, *quarter)))
    inputs = [TensorSpec(INPUT, "uint8", (None, *size, 3))]
    if extra:
        inputs.append(TensorSpec(VOCABULARY, "float32", (None, None, extra[VOCABULARY].shape[2])))
    if SHARE in extra:
        inputs.append(TensorSpec(SHARE, "float32", (None,)))
    return {
        "inputs": [spec.to_json() for spec in inputs],
        "outputs": [spec.to_json() for spec in outputs],
        "height": size[0],
        "width": size[1],
        "classes": list(NAMES),
        "palette": [list(c.color) for c in CLASSES],
        "mean_color": [round(float(v)) for v in segmenter.backbone.mean.flatten()],
        "inference": inference,
        "precision": FP32,
        "label_agreement": recipe.export.label_agreement,
        "run": run.name,
        "run_sha256": sha256(run / MANIFEST),
        "backbone": recipe.model.backbone.name,
        "backbone_weights": segmenter.backbone.weights,
        "random_weights": segmenter.backbone.weights == "random",
        "recipe": recipe.model_dump(mode="json"),
    }


def _metadata(facts: dict[str, Any]) -> dict[str, str]:
    keys = (
        "classes",
        "palette",
        "mean_color",
        "inference",
        "precision",
        "run_sha256",
        "backbone",
        "backbone_weights",
    )
    return {k: v if isinstance(v := facts[k], str) else json.dumps(v) for k in keys}


def _save_both(
    shipped: ir.Model, with_scores: ir.Model, graph: Path, gate_graph: Path, metadata: dict[str, str]
) -> None:
    """Write the graph that is shipped, and the one with scores, which may be the same."""
    import onnx

    for path in graph.parent.glob(f"{graph.name}*"):
        path.unlink()  # weights beside an earlier graph
    save(shipped, graph, metadata)
    if gate_graph != graph:
        save(with_scores, gate_graph, {})
    require_clean(onnx.load(str(graph), load_external_data=False))


def _pictures(limits: ExportConfig, images: Path | Sequence[Path] | None, mean_color: Sequence[int]) -> Array:
    """Collect what the gates look at: drawn streets, and the user's images fitted to the size."""
    drawn = drawn_images(limits.height, limits.width, BATCH)
    return drawn if images is None else np.concatenate([drawn, _fitted(limits, images, mean_color)])


def _fitted(limits: ExportConfig, images: Path | Sequence[Path], mean_color: Sequence[int]) -> Array:
    from clouds_deploy.data.images import list_images, read_image

    chosen = list_images([images] if isinstance(images, Path) else images)
    if not chosen:
        raise CloudsError(f"there are no images in {images}", "give a folder of PNG or JPEG images")
    red, green, blue = mean_color
    size = limits.height, limits.width
    return np.stack([fit(read_image(path), *size, (red, green, blue))[0] for path in chosen])


def _pack_source(run: Path, target: Path) -> None:
    """Put the weights into the bundle, as links to the run's own bytes where the disk allows it."""
    target.mkdir()
    for name in (RECIPE, FROZEN, TRAINED):
        try:
            os.link(run / name, target / name)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.ENOENT):
                raise
            shutil.copyfile(run / name, target / name)


def save_arrays(path: Path, arrays: dict[str, Array]) -> None:
    """Write a .npz whose bytes depend on the arrays alone, uncompressed: an embedded runtime has no zlib."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980, always
            with archive.open(info, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _announce(facts: dict[str, Any], raw: int, nodes: int, size: int) -> None:
    mebibytes = size / 2**20
    say(f"  export       {nodes} nodes ({raw} before simplification), {mebibytes:.1f} MiB, all gates passed")
    if facts["random_weights"]:
        warn("the backbone's weights are RANDOM; this bundle is a dry run and labels nothing sensibly")
