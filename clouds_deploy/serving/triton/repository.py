"""`export --triton`: bundles become a model repository of Triton Inference Server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import MANIFEST, atomic_directory, check_new, sha256, write_manifest, write_text
from clouds_deploy.bundles.bundle import ENCODER, SAM_KIND, Bundle, open_bundle
from clouds_deploy.bundles.bundle import KIND as BUNDLE
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.errors import CloudsError
from clouds_deploy.serving.triton.config import BACKENDS, TritonOptions, graph_config, refine_config
from clouds_deploy.serving.triton.pbtxt import pbtxt

KIND = "triton_repository"
Fix = Callable[[Path, Mapping[str, Array], Path], None]
MODELS = "models"
BUILD = "build_plans.sh"
_MODEL = '''"""Refines label maps; `config.pbtxt` says with which models."""

from clouds_deploy.serving.triton.refine_model import RefineModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


def write_repository(
    bundle: Path,
    out: Path,
    options: TritonOptions | None = None,
    *,
    sam: Path | None = None,
    fix: Fix | None = None,
) -> dict[str, Any]:
    """Writes a model repository: the segmenter, and with a SAM its two graphs and a model that refines.

    Plans of TensorRT fit one GPU and one version. A plan that the bundle holds is taken; for every other
    graph `build_plans.sh` has the command that makes it, to be run once in Triton's own container, and the
    ONNX file lies beside.

    Args:
        bundle: A segmenter's bundle.
        out: The directory to make; `models/` in it is what Triton is pointed at.
        options: How Triton is to run it.
        sam: A SAM's bundle.
        fix: `export.embed.fix_inputs`; text-headed bundles need it.

    Returns:
        `out`, `repository`, `models` by name with their backend, and `build`, the script that is to be run
        first, or None.

    Raises:
        CloudsError: A bundle does not hold, or `out` is there already.
    """
    chosen = options or TritonOptions()
    opened = open_bundle(bundle, BUNDLE)
    commands: list[str] = []
    with atomic_directory(out) as directory:
        models = directory / MODELS
        made = {chosen.name: _segmenter(opened, models, directory, chosen, commands, fix)}
        if sam is not None:
            made |= _sam(opened, sam, models, directory, chosen, commands)
        if commands:
            write_text(directory / BUILD, _script(commands))
            (directory / BUILD).chmod(0o755)
        write_manifest(
            directory,
            KIND,
            inputs={str(path): sha256(path / MANIFEST) for path in (bundle, sam) if path is not None},
            models=made,
        )
    return {
        "out": str(out),
        "repository": str(out / MODELS),
        "models": made,
        "build": str(out / BUILD) if commands else None,
    }


def check_repository(out: Path, backend: str, sam: Path | None) -> None:
    """Checks what a repository is to be made with, before the long work of making its bundle.

    Raises:
        CloudsError: There is no such backend, the SAM's bundle does not hold, or `out` cannot be made.
    """
    TritonOptions(backend)
    if sam is not None:
        open_bundle(sam, SAM_KIND)
    check_new(out)


def _segmenter(
    bundle: Bundle,
    models: Path,
    directory: Path,
    options: TritonOptions,
    commands: list[str],
    fix: Fix | None,
) -> str:
    image, *others = bundle.inputs
    batched = image.shape[0] is None
    built = [one for one in bundle.facts.get("engines", []) if one.get("engine") == "tensorrt"]
    plan = built[0] if built and options.backend == "tensorrt" and not others else None
    if plan is not None:
        options = replace(options, batch=min(options.batch, int(plan["batch"][2])))
    told = {key: json.dumps(bundle.facts[key]) for key in ("classes", "palette")}
    config = graph_config(options.name, [image], bundle.outputs, options, batched=batched, parameters=told)
    folder = _folder(models, options.name, config)
    if plan is not None:
        shutil.copyfile(bundle.path / str(plan["file"]), folder / BACKENDS[options.backend])
        return options.backend
    place = _place(folder, directory, options)
    if others:
        _fix_classes(bundle, place, fix)
    else:
        _copy(bundle.file(), place)
    if options.backend == "tensorrt":
        commands.append(_command(options, place, [image] if batched else [], bundle.precision))
    return options.backend


def _sam(
    bundle: Bundle, sam: Path, models: Path, directory: Path, options: TritonOptions, commands: list[str]
) -> dict[str, str]:
    opened = open_bundle(sam, SAM_KIND)
    names = {part: f"{options.name}_sam_{part}" for part in opened.graphs}
    made = {}
    for part, name in names.items():
        spec = opened.graphs[part]
        # the decoder's prompts and its images are two axes of different lengths: nothing Triton could gather
        folder = _folder(
            models, name, graph_config(name, spec.inputs, spec.outputs, options, batched=part == "encoder")
        )
        place = _place(folder, directory, options)
        _copy(opened.file(part), place)
        if options.backend == "tensorrt":
            commands.append(_command(options, place, spec.inputs, opened.precision))
        made[name] = options.backend
    refine = f"{options.name}_refine"
    (embeddings,) = opened.graphs[ENCODER].outputs
    parameters = {
        "segmenter": options.name,
        "labels": bundle.outputs[0].name,
        "sam_encoder": names["encoder"],
        "sam_decoder": names["decoder"],
        "sam": opened.name,
        "height": str(bundle.height),
        "width": str(bundle.width),
        "mean_color": ",".join(map(str, bundle.mean_color)),
        "embeddings": ",".join(str(size or 0) for size in embeddings.shape),
        "side": str(opened.height),
        "label_set": json.dumps(bundle.label_set.to_tree()),
    }
    folder = _folder(models, refine, refine_config(refine, parameters, options))
    write_text(folder / "model.py", _MODEL)
    return {**made, refine: "python"}


def _fix_classes(bundle: Bundle, place: Path, fix: Fix | None) -> None:
    """Writes the graph with its classes inside: Triton batches every input, and they have no batch."""
    vocabulary = bundle.vocabulary()
    if vocabulary is None or fix is None:
        raise CloudsError(f"{bundle.path} takes more than an image", "export it again with this version")
    fix(bundle.file(), vocabulary.feeds(bundle.inputs, str(bundle.path)), place)


def _folder(models: Path, name: str, config: dict[str, Any]) -> Path:
    """Writes a model's config, and returns the folder of its first version."""
    version = models / name / "1"
    version.mkdir(parents=True)
    write_text(models / name / "config.pbtxt", pbtxt(config))
    return version


def _place(folder: Path, directory: Path, options: TritonOptions) -> Path:
    """Where a graph goes: to the model, or where TensorRT builds a plan from it."""
    if options.backend != "tensorrt":
        return folder / BACKENDS[options.backend]
    (directory / "onnx").mkdir(exist_ok=True)
    return directory / "onnx" / f"{folder.parent.name}.onnx"


def _copy(graph: Path, place: Path) -> None:
    """Copies a graph with its weights; those over 2 GB lie beside it, under the name that the graph has."""
    shutil.copyfile(graph, place)
    weights = graph.with_name(f"{graph.name}.data")
    if weights.is_file():
        shutil.copyfile(weights, place.with_name(weights.name))


def _command(options: TritonOptions, graph: Path, inputs: Sequence[TensorSpec], precision: str) -> str:
    """The command that builds a plan, in the precision that the graph is written in."""
    name = graph.stem
    words = [f"trtexec --onnx=onnx/{graph.name} --saveEngine={MODELS}/{name}/1/model.plan"]
    for flag, size in (("min", 1), ("opt", options.batch), ("max", options.batch)):
        shapes = ",".join(f"{spec.name}:{_shape(spec, size, flag)}" for spec in inputs)
        if shapes:
            words.append(f"--{flag}Shapes={shapes}")
    words.append("--stronglyTyped" if precision != "fp32" else "--noTF32")
    return " \\\n  ".join(words)


def _shape(spec: TensorSpec, size: int, flag: str) -> str:
    """The first free axis is images or prompts, a second one points."""
    free = iter((size, 2 if flag == "min" else 8))
    return "x".join(str(next(free) if axis is None else axis) for axis in spec.shape)


def _script(commands: list[str]) -> str:
    head = (
        "#!/bin/sh\n# Run once, on the GPU that serves, in the container that serves: a plan fits no other.\n"
        'set -eu\ncd "$(dirname "$0")"\n'
    )
    return head + "\n".join(commands) + "\n"
