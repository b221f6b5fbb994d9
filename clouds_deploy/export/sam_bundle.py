"""`export sam:NAME`: a SAM becomes a bundle of two graphs, proven before it is written."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.artifacts import atomic_directory, write_json, write_manifest
from clouds_deploy.backends.backends import GRAPH_BACKENDS, check_graph_backends, runs
from clouds_deploy.backends.tensorrt.build import FOLDER, build_engine, engine_version
from clouds_deploy.backends.tensorrt.options import EngineOptions
from clouds_deploy.bundles import bundle as parts
from clouds_deploy.bundles.bundle import FACTS, GATES, REFERENCE, SAM_KIND
from clouds_deploy.bundles.sam_specs import sam_specs
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.config.sam import SamExportConfig, SamLimits
from clouds_deploy.console import busy, say, warn
from clouds_deploy.errors import CloudsError
from clouds_deploy.export.bundle import save_arrays
from clouds_deploy.export.flops import flops_by_type
from clouds_deploy.export.gates import Gate, drawn_images, require_passed
from clouds_deploy.export.half import HALVES, Typed, to_half
from clouds_deploy.export.lint import require_clean
from clouds_deploy.export.lowered import FP32, precision_of
from clouds_deploy.export.proof import engine_gate, flops_gate
from clouds_deploy.export.rounding import rounded
from clouds_deploy.export.sam_graphs import decoder_to_onnx, encoder_to_onnx
from clouds_deploy.export.sam_parity import Case, make_case, prove_sam, reference
from clouds_deploy.export.trace import save
from clouds_deploy.models.sam.build import RANDOM, SamModel, load_seeded
from clouds_deploy.models.sam.names import EMBEDDINGS, IMAGE, LABELS, POINTS
from clouds_deploy.models.sam.vit_encoder import AttentionForm

if TYPE_CHECKING:
    import onnx_ir as ir

ENCODER = f"{parts.ENCODER}.onnx"
DECODER = f"{parts.DECODER}.onnx"
FREE = {LABELS: (0, 1), POINTS: (0, 1)}
"""Axes beside the batch: the points of a prompt."""
DRAWN = 2
PROMPTS = (1, 64, 256)
"""Least, likeliest and most prompts of a built decoder."""
PROMPT_POINTS = (1, 3, 16)
"""Least, likeliest and most points of a prompt of a built decoder."""
COUNTED = {"batch": 1, "images": 1, "prompts": 64, "points": 3}
"""Sizes at which operations are counted."""


@dataclass
class _Graphs:
    """Both graphs and how they were made."""

    encoder: ir.Model
    decoder: ir.Model
    raw_nodes: int
    typing: dict[str, Any] = field(default_factory=dict)

    def save(self, directory: Path, metadata: dict[str, str]) -> int:
        """Write both graphs over whatever is there, check them, and give their bytes."""
        for path in [*directory.glob(f"{ENCODER}*"), *directory.glob(f"{DECODER}*")]:
            path.unlink()
        size = 0
        for model, name in ((self.encoder, ENCODER), (self.decoder, DECODER)):
            import onnx

            size += save(model, directory / name, metadata, name.removesuffix(".onnx"))
            require_clean(onnx.load(str(directory / name), load_external_data=False), FREE)
        return size

    @property
    def nodes(self) -> int:
        return sum(len(list(model.graph)) for model in (self.encoder, self.decoder))


def export_named(
    name: str,
    weights: str | Path | None,
    out: Path,
    *,
    images: str | Path | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Load a SAM and export it.

    Args:
        name: See `load_sam`.
        weights: See `load_sam`; random ones are those of seed 0.
        out: The bundle's directory.
        images: A folder of images for the gates.
        options: Of `export_sam`.

    Raises:
        CloudsError: See `load_sam` and `export_sam`.
    """
    model = load_seeded(name, weights)
    return export_sam(model, out, images=Path(images) if images else None, **options)


def export_sam(
    model: SamModel,
    out: Path,
    *,
    engines: Sequence[str] = GRAPH_BACKENDS,
    images: Path | Sequence[Path] | None = None,
    fp16: bool = False,
    bf16: bool = False,
    attention: AttentionForm = "bias",
    builds: Sequence[EngineOptions] = (),
    limits: SamExportConfig | None = None,
) -> dict[str, Any]:
    """Export a SAM's encoder and decoder, prove them on every runtime named, and seal them with the evidence.

    Args:
        model: The SAM; not changed.
        out: The bundle's directory; must not exist.
        engines: Runtimes that have to pass the gates.
        images: Images, or a folder of them, that the gates look at beside two drawn streets.
        fp16: Whether the bundle's graphs are the FP16 ones; the float32 ones then pass their gates first.
        bf16: The same in BF16.
        attention: See `encoder_to_onnx`.
        builds: Engines to build of both graphs, each kept in the bundle.
        limits: What the gates ask for.

    Returns:
        `out`, `gates` (each `Gate.to_json`), `nodes`, `raw_nodes`, `size_mib`, `image_size`, `weights`,
        `random_weights`, `precision`, `engines` (what `build_engine` gave).

    Raises:
        CloudsError: An engine is unknown or not installed; a gate failed, or an engine could not be built
            (exit code 1; nothing is left behind).
    """
    for options in builds:
        engine_version(options.engine)
    check_graph_backends(engines)
    limits = limits or SamExportConfig()
    precision = precision_of(fp16, bf16, False)
    case = make_case(_pictures(model.image_size, images), model.image_size)
    facts: dict[str, Any] = {
        "model": "sam",
        "name": model.name,
        "image_size": model.image_size,
        "graphs": _graph_facts(model),
        "precision": FP32,
        "attention": attention,
        "weights": model.source,
        "weights_sha256": model.sha256,
        "random_weights": model.source == RANDOM,
        "limits": limits.model_dump(mode="json"),
    }
    with atomic_directory(out) as directory:
        with busy("tracing the encoder and the decoder into ONNX graphs"):
            encoder, decoder = encoder_to_onnx(model.sam, attention=attention), decoder_to_onnx(model.sam)
            raw = encoder.raw_nodes + decoder.raw_nodes
            graphs = _Graphs(encoder.model, decoder.model, raw)
        with busy("asking segment_anything what is right"):
            expected = reference(model.sam, case)
        facts["bytes"] = graphs.save(directory, _metadata(facts))
        gates = _prove(engines, directory, case, expected, limits.fp32)
        require_passed(gates)
        if precision != FP32:
            half: SamLimits = getattr(limits, precision)
            with busy(f"bringing them to {precision}"):
                graphs, plain = _typed(graphs, precision, limits, case, expected)
            facts |= {"precision": precision, "typing": graphs.typing}
            facts["bytes"] = graphs.save(directory, _metadata(facts))
            for name in (ENCODER, DECODER):
                part = name.removesuffix(".onnx")
                gates.append(flops_gate(directory / name, half.flops, part, COUNTED, precision=precision))
            able = [engine for engine in engines if runs(engine, precision)]
            gates += _prove(able, directory, case, expected, half, f" {precision}")
            with busy(f"proving them with every {precision} tensor rounded"):
                gates += _prove_rounded(plain, case, expected, half)
            require_passed(gates)
        operations = {
            name.removesuffix(".onnx"): flops_by_type(directory / name, {**COUNTED, "prompts": 1})
            for name in (ENCODER, DECODER)
        }
        facts |= {"nodes": graphs.nodes, "raw_nodes": graphs.raw_nodes, "flops": operations}
        save_arrays(directory / REFERENCE, {**case.encoder, **case.prompts, **expected})
        facts["engines"] = _build(directory, model, builds)
        if precision != FP32:
            gates += [engine_gate(built, half.flops, precision) for built in facts["engines"]]
        require_passed(gates)
        write_json(directory / FACTS, facts)
        found = [gate.to_json() for gate in gates]
        write_json(directory / GATES, {"images": len(case.encoder[IMAGE]), "gates": found})
        write_manifest(
            directory,
            SAM_KIND,
            inputs={"weights": model.sha256},
            config=limits.model_dump(mode="json"),
            weights=model.source,
            random_weights=facts["random_weights"],
            engines=list(engines),
            built=[engine["file"] for engine in facts["engines"]],
            precision=facts["precision"],
            gates=found,
            nodes=graphs.nodes,
            device="cpu",
        )
    say(f"  export       {graphs.nodes} nodes, {facts['bytes'] / 2**20:.1f} MiB, all gates passed")
    if facts["random_weights"]:
        warn("the weights are RANDOM; this bundle is a dry run and its masks mean nothing")
    return {
        "out": str(out),
        "gates": found,
        "nodes": graphs.nodes,
        "raw_nodes": graphs.raw_nodes,
        "size_mib": facts["bytes"] / 2**20,
        **{key: facts[key] for key in ("image_size", "weights", "random_weights", "precision", "engines")},
    }


def _graph_facts(model: SamModel) -> dict[str, Any]:
    specs = sam_specs(model.sam)
    return {part: {"file": f"{part}.onnx", **spec.to_json()} for part, spec in specs.items()}


def _metadata(facts: Mapping[str, Any]) -> dict[str, str]:
    return {
        "sam": facts["name"],
        "precision": facts["precision"],
        "weights": facts["weights"],
        "weights_sha256": facts["weights_sha256"] or "",
    }


def _pictures(side: int, images: Path | Sequence[Path] | None) -> list[Array]:
    """Collect what the gates look at: drawn streets, wide and high, and the user's images."""
    drawn = list(drawn_images(side // 2, side, DRAWN - 1)) + list(
        drawn_images(side, side * 3 // 4, 1, seed=7)
    )
    if images is None:
        return drawn
    from clouds_deploy.data.images import list_images, read_image

    chosen = list_images([images] if isinstance(images, Path) else images)
    if not chosen:
        raise CloudsError(f"there are no images in {images}", "give a folder of PNG or JPEG images")
    return drawn + [read_image(path) for path in chosen]


def _prove(
    engines: Sequence[str],
    directory: Path,
    case: Case,
    expected: Mapping[str, Array],
    limits: SamLimits,
    suffix: str = "",
) -> list[Gate]:
    gates = []
    for engine in engines:
        with busy(f"proving them{suffix} on {engine}"):
            encoder, decoder = directory / ENCODER, directory / DECODER
            name = f"{engine}{suffix}"
            gates += prove_sam(engine, encoder, decoder, case, expected, limits, name=name)
    return gates


def _typed(
    graphs: _Graphs, precision: str, limits: SamExportConfig, case: Case, expected: Mapping[str, Array]
) -> tuple[_Graphs, list[Typed]]:
    kind = HALVES[precision]
    one = {name: array[-1:] for name, array in case.encoder.items()}
    encoder = to_half(graphs.encoder, limits.islands, [one], kind)
    decoder = to_half(graphs.decoder, limits.islands, [case.decoder(expected[EMBEDDINGS])], kind)
    typing = {"encoder": encoder.to_json(), "decoder": decoder.to_json()}
    return _Graphs(encoder.model, decoder.model, graphs.raw_nodes, typing), [encoder, decoder]


def _prove_rounded(
    typed: Sequence[Typed], case: Case, expected: Mapping[str, Array], limits: SamLimits
) -> list[Gate]:
    """Compare the graphs as a GPU would compute them; see `precision.rounded`."""
    with tempfile.TemporaryDirectory() as folder:
        encoder, decoder = Path(folder) / ENCODER, Path(folder) / DECODER
        for one, path in zip(typed, (encoder, decoder), strict=True):
            save(rounded(one.model), path, {})
        label = f"rounded {typed[0].kind.name}"
        return prove_sam("onnxruntime", encoder, decoder, case, expected, limits, name=label, batched=False)


def _build(directory: Path, model: SamModel, builds: Sequence[EngineOptions]) -> list[dict[str, Any]]:
    built = []
    for options in builds:
        for name, shapes in engine_shapes(model, options).items():
            with busy(f"building {name.removesuffix('.onnx')} with {options.engine}"):
                built.append(build_engine(directory / name, directory / FOLDER, options, shapes))
    return built


def engine_shapes(model: SamModel, options: EngineOptions) -> dict[str, dict[str, list[list[int]]]]:
    """Say how large every input of both graphs may be; see `backends.tensorrt.build.profiles`.

    Returns:
        By the graph's file, by the input's name its least, likeliest and largest shape.
    """
    specs = sam_specs(model.sam)
    shapes = {
        ENCODER: {s.name: _profile(s, (options.batch,)) for s in specs[parts.ENCODER].inputs},
        DECODER: {s.name: _profile(s, (PROMPTS, PROMPT_POINTS)) for s in specs[parts.DECODER].inputs},
    }
    images = specs[parts.DECODER].inputs[0]
    shapes[DECODER][images.name] = _profile(images, (options.batch,))
    return shapes


def _profile(spec: TensorSpec, free: Sequence[tuple[int, int, int]]) -> list[list[int]]:
    """Give an input's least, likeliest and largest shape, from those of its free axes in their order."""
    shapes = []
    for which in range(3):
        sizes = iter(free)
        shapes.append([next(sizes)[which] if d is None else d for d in spec.shape])
    return shapes
