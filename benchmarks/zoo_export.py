"""Every model of the zoo: exported at full size, typed in FP16, built by TensorRT-RTX for GPUs it never saw.

    python benchmarks/zoo_export.py --out benchmarks/results/zoo_export.json
    python benchmarks/zoo_export.py gta_convnext_l sam:vit_b --gates --out benchmarks/results/zoo_export.json

Weights are random but for `sam_tiny`'s: whether a parser takes a graph, and what it weighs, does not depend
on them. A model is made, exported and built in a process of its own (Linux), whose peak memory is told.
Without `--gates` nothing is run: the graph is traced, typed (FP32 islands by name, none by range) and built.
With it the whole `export` is, in float32 and with `--fp16`, on ONNX Runtime and OpenVINO.
Results are added to those in `--out`.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import environment, read_json, write_json
from clouds_deploy.backends.tensorrt.build import build_engine, profiles
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.errors import CloudsError

ENGINE = EngineOptions("tensorrt-rtx", ("86", "89", "120"), (1, 1, 4))
SIZE = (512, 1024)
TEXT = ("model.head=text", "model.text.weights=random")
RECIPES: dict[str, tuple[str, ...]] = {
    "tiny": ("tiny",),
    "gta_convnext_l": ("gta_convnext_l",),
    "gta_rn50": ("gta_rn50",),
    "gta_rn101": ("gta_rn101",),
    "synthia_mit_b5": ("synthia_mit_b5",),
    "dinov2/l": ("gta_rn50", "model.backbone.name=dinov2/l"),
    "dinov3/l": ("gta_rn50", "model.backbone.name=dinov3/l"),
    "open_clip/EVA02-L-14": ("gta_rn50", "model.backbone.name=open_clip/EVA02-L-14"),
    "gta_convnext_l text": ("gta_convnext_l", *TEXT),
}
"""Segmenters: a shipped recipe and what is changed in it."""
SAMS = ("sam_tiny", "mobile_sam", "vit_b", "vit_l", "vit_h")
PREFIX = "sam:"


def main() -> None:
    """Do what was asked for, one process after the other, and write what came of it."""
    names = [*RECIPES, *(PREFIX + name for name in SAMS)]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all by default, of {', '.join(names)}")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gates", action="store_true", help="the whole export, with its gates")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(measure(given.names[0], given.gates)))
        return
    report = read_json(given.out) if given.out.is_file() else {"models": {}}
    report |= {"environment": environment(), "sms": ENGINE.sms, "batch": ENGINE.batch, "size": SIZE}
    for name in given.names or names:
        command = [sys.executable, __file__, name, "--child", "--out", "-"]
        done = subprocess.run(
            [*command, *(["--gates"] if given.gates else [])], stdout=subprocess.PIPE, text=True, check=False
        )
        lines = done.stdout.splitlines()
        result = json.loads(lines[-1]) if done.returncode == 0 else {"ended_with": done.returncode}
        report["models"][f"{name} with gates" if given.gates else name] = result
        write_json(given.out, report)
        print(f"{name}: {json.dumps(result)[:600]}", flush=True)


def measure(name: str, gates: bool) -> dict[str, Any]:
    """Export one model and build its engines; a failure is a result too."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            traced = sam if name.startswith(PREFIX) else segmenter
            result = (proven if gates else traced)(name, Path(folder))
        except CloudsError as error:
            result = {"error": error.message}
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {**result, "seconds": round(time.perf_counter() - start, 1), "peak_gib": round(peak / 2**20, 2)}


def recipe_of(name: str) -> Any:
    """Resolve a segmenter's recipe at the size of all."""
    from clouds_deploy.config.shipped import load_recipe

    base, *changes = RECIPES[name]
    size = [f"export.height={SIZE[0]}", f"export.width={SIZE[1]}"]
    return load_recipe(base, ("model.backbone.weights=random", *size, *changes))


def segmenter(name: str, folder: Path) -> dict[str, Any]:
    """Trace, type and build a segmenter."""
    import torch

    from clouds_deploy.bundles.tensors import TensorSpec
    from clouds_deploy.export.half import to_half
    from clouds_deploy.export.trace import drop_scores, save, to_onnx
    from clouds_deploy.models.clouds.graph import SegmenterGraph
    from clouds_deploy.models.clouds.names import INPUT
    from clouds_deploy.models.clouds.segmenter import build_segmenter

    recipe = recipe_of(name)
    torch.manual_seed(0)
    model = build_segmenter(recipe.model).eval()
    extra = {key: value.shape for key, value in SegmenterGraph(model).extra_inputs().items()}
    exported = to_onnx(model, *SIZE)
    del model
    typed = to_half(exported.model, recipe.export.fp16.islands)
    path = folder / "segmenter.onnx"
    save(drop_scores(typed.model), path, {})
    specs = [TensorSpec(INPUT, "uint8", (None, *SIZE, 3))]
    specs += [TensorSpec(key, "float32", tuple(shape)) for key, shape in extra.items()]
    return built(path, folder, profiles(specs, ENGINE.batch, extra))


def sam(name: str, folder: Path) -> dict[str, Any]:
    """Trace, type and build a SAM's encoder and decoder."""
    from clouds_deploy.bundles.sam_specs import sam_specs
    from clouds_deploy.config.export import SamExportConfig
    from clouds_deploy.export.half import to_half
    from clouds_deploy.export.sam import decoder_to_onnx, encoder_to_onnx, engine_shapes
    from clouds_deploy.export.trace import save
    from clouds_deploy.models.sam.build import load_seeded

    plain = name.removeprefix(PREFIX)
    model = load_seeded(plain, None if plain.startswith("sam_tiny") else "random")
    recipe = SamExportConfig()
    shapes = engine_shapes(sam_specs(model.sam), recipe.engine, ENGINE.batch)
    parts = {}
    for file, trace in (("encoder.onnx", encoder_to_onnx), ("decoder.onnx", decoder_to_onnx)):
        save(to_half(trace(model.sam).model, recipe.islands).model, folder / file, {})
        parts[file.removesuffix(".onnx")] = built(folder / file, folder, shapes[file.removesuffix(".onnx")])
    return parts


def built(graph: Path, folder: Path, shapes: Any) -> dict[str, Any]:
    """Build an engine and say what matters of it."""
    from clouds_deploy.config.export import SamExportConfig
    from clouds_deploy.export.flops import flops_by_type, share
    from clouds_deploy.export.sam import likely_sizes

    facts = build_engine(graph, folder / "engines", ENGINE, shapes)
    sizes = likely_sizes(SamExportConfig().engine)
    return {
        "graph_mib": round(sum(p.stat().st_size for p in graph.parent.glob(f"{graph.name}*")) / 2**20, 1),
        "engine_mib": round(facts["bytes"] / 2**20, 1),
        "build_seconds": round(facts["seconds"], 1),
        "products": facts["layers"],
        "fp16_flops": round(share(flops_by_type(graph, sizes), "float16"), 4),
    }


def proven(name: str, folder: Path) -> dict[str, Any]:
    """Run the whole `export`, in float32 and with `--fp16`."""
    import clouds_deploy

    recipe = folder / "recipe.yaml"
    if not name.startswith(PREFIX):
        recipe.write_text(recipe_of(name).to_yaml(), encoding="utf-8")
    found = {}
    for precision in ("float32", "float16"):
        half = precision == "float16"
        result = clouds_deploy.export(
            name if name.startswith(PREFIX) else recipe,
            out=folder / precision,
            weights=None if name == "sam:sam_tiny" else "random",
            fp16=half,
            engines=("onnxruntime", "openvino", *((ENGINE.engine,) if half else ())),
            sms=ENGINE.sms if half else (),
            batch=ENGINE.batch,
        )
        kept = ("engine", "name", "shown", "limit_shown", "passed")
        found[precision] = {
            "gates": [{key: gate[key] for key in kept} for gate in result["gates"]],
            "graph_mib": round(result["size_mib"], 1),
            "engines": {e["file"]: round(e["bytes"] / 2**20, 1) for e in result["engines"]},
        }
    return found


if __name__ == "__main__":
    main()
