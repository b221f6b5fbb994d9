"""What a bundle holds and how it is opened: the contract between export and everything that runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import kind_of, read_manifest
from clouds_deploy.artifacts.documents import checked, read_document
from clouds_deploy.artifacts.names import TAMPERED, shown
from clouds_deploy.bundles.arrays import read_arrays
from clouds_deploy.bundles.facts import SamDocument, SegmenterDocument
from clouds_deploy.bundles.onnx_weights import check_weights
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.bundles.tensors import Array, GraphSpec, TensorSpec
from clouds_deploy.bundles.vocabulary import FILE, Vocabulary
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import LabelSet

KIND = "bundle"
"""Kind of a segmenter's bundle in its manifest."""
SAM_KIND = "sam_bundle"
"""Kind of a SAM's bundle in its manifest."""
SEGMENTER = "segmenter"
ENCODER = "encoder"
DECODER = "decoder"
"""Names of the graphs: a segmenter has one, a SAM has two."""
GRAPH = f"{SEGMENTER}.onnx"
FACTS = "bundle.json"
REFERENCE = "reference.npz"
GATES = "gates.json"
SOURCE = "source"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle, of a segmenter or of a SAM.

    Attributes:
        path: Its directory.
        kind: `KIND` or `SAM_KIND`.
        manifest: Its manifest, already checked.
        graphs: Inputs and outputs of its graphs by name: `SEGMENTER`, or `ENCODER` and `DECODER`.
        facts: All of `bundle.json`.
        origin: The bundle as the user named it: its directory, or the `.clouds` file that was unpacked there.
    """

    path: Path
    kind: str
    manifest: Mapping[str, Any]
    graphs: Mapping[str, GraphSpec]
    facts: Mapping[str, Any]
    origin: Path

    @property
    def engines(self) -> list[Mapping[str, Any]]:
        """Entries of the engines that were built from its graphs."""
        return list(self.facts.get("engines", ()))

    def file(self, graph: str = SEGMENTER) -> Path:
        """The ONNX file of a graph."""
        return self.path / f"{graph}.onnx"

    @property
    def name(self) -> str:
        """A SAM's name, one of `models.sam.build.NAMES`; a segmenter's is its recipe's."""
        return str(self.facts["name"]) if self.kind == SAM_KIND else self.recipe.name

    @property
    def height(self) -> int:
        """Image height of the graph; a SAM's encoder sees a square."""
        return int(self.facts["image_size" if self.kind == SAM_KIND else "height"])

    @property
    def width(self) -> int:
        """Image width of the graph."""
        return int(self.facts["image_size" if self.kind == SAM_KIND else "width"])

    @property
    def weights(self) -> str:
        """Where the weights (a segmenter's: its backbone's) came from."""
        return str(self.facts["weights" if self.kind == SAM_KIND else "backbone_weights"])

    @property
    def precision(self) -> str:
        """What the graphs compute in: `fp32`, `fp16`, `bf16` or `int8`."""
        return str(self.facts.get("precision", "fp32"))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a segmenter's graph takes."""
        return self.graphs[SEGMENTER].inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What a segmenter's graph gives."""
        return self.graphs[SEGMENTER].outputs

    @property
    def mean_color(self) -> tuple[int, int, int]:
        """RGB that a segmenter's normalisation turns into about zero; letterboxes are filled with it."""
        red, green, blue = (int(value) for value in self.facts["mean_color"])
        return red, green, blue

    @property
    def inference(self) -> str:
        """How a segmenter's labels are computed, `exact` or `fast`; see `Segmenter.scores`."""
        return str(self.facts["inference"])

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that a segmenter's run was trained with."""
        return Recipe.model_validate(self.facts["recipe"])

    @property
    def label_set(self) -> LabelSet:
        """The classes that a segmenter's labels count."""
        return self.recipe.data.classes

    def limit(self, name: str, computing: str = "fp32") -> float:
        """The least agreement with PyTorch: that of the graph's precision, or of the coarser one it runs in.

        Args:
            name: `label_agreement` of a segmenter; `mask_iou` or `worst_mask_iou` of a SAM.
            computing: What the graph is computed in: `fp32` as it is written, or `bf16`.
        """
        if self.kind == SAM_KIND:
            limits = {**self.facts["limits"]}
            limits.setdefault("bf16", limits["fp16"])  # bundles of before 2026-11 know no bfloat16
            own, other = limits[self.precision][name], limits[computing][name]
        else:
            export = self.recipe.export
            own = self.facts.get(name, getattr(export.limits(self.precision), name))
            other = getattr(export.limits(computing), name)
        return float(own if computing == "fp32" else min(own, other))

    @property
    def source(self) -> Path | None:
        """The directory of the recipe and the weights, where they were packed too."""
        return self.path / SOURCE if (self.path / SOURCE).is_dir() else None

    def vocabulary(self) -> Vocabulary | None:
        """The classes that a text-headed graph was exported with; None for all other graphs."""
        return Vocabulary.load(self.path / FILE) if (self.path / FILE).is_file() else None

    def gates(self) -> list[dict[str, Any]]:
        """The gates that the bundle passed at its export."""
        where, found = self.path / GATES, read_document(self.path / GATES)
        gates = found.get("gates") if isinstance(found, dict) else None
        if not isinstance(gates, list) or not all(isinstance(gate, dict) for gate in gates):
            raise CloudsError(f"{where} lists no gates", "export it again with this version")
        return gates

    def reference(self) -> dict[str, Array]:
        """The inputs packed with the bundle and the reference outputs that PyTorch computed from them.

        Returns:
            By the name in the graph. A segmenter's: `image` (N, H, W, 3) uint8, `labels` and, where it gives
            them, `scores`. A SAM's: `image`, `size`, `image_index`, `point_coords`, `point_labels`;
            `image_embeddings`, `masks`, `iou_predictions`.
        """
        return read_arrays(self.path / REFERENCE)


def open_bundle(path: Path, kind: str | None = None, *, verify: bool = True) -> Bundle:
    """Opens a bundle and checks that it is the one that was sealed.

    Args:
        path: Its directory or its `.clouds` file.
        kind: `KIND` or `SAM_KIND` where only this one will do; None takes both.
        verify: Whether to compare every file with its sha256.

    Raises:
        CloudsError: It is no bundle, or a file in it was changed or lost.
    """
    origin, path = path, unpacked(path)
    if kind is None:
        kind = SAM_KIND if kind_of(path) == SAM_KIND else KIND
    manifest = read_manifest(path, kind, verify=verify)
    facts = read_document(path / FACTS)
    schema = SamDocument if kind == SAM_KIND else SegmenterDocument
    checked(schema, facts, path / FACTS, "export it again with this version")
    try:
        if kind == SAM_KIND:
            graphs = {part: GraphSpec.from_json(facts["graphs"][part]) for part in (ENCODER, DECODER)}
        else:
            graphs = {SEGMENTER: GraphSpec.from_json(facts)}
        bundle = Bundle(path, kind, manifest, graphs, facts, origin)
        _ = bundle.name, bundle.height, bundle.width, bundle.weights
        if kind == KIND:
            _ = bundle.mean_color, bundle.inference, bundle.recipe
    except (KeyError, TypeError, ValueError) as error:
        raise CloudsError(
            f"{path / FACTS} lacks or garbles a fact: {error}", "export it again with this version"
        ) from error
    for engine in facts.get("engines", ()):
        if engine["file"] not in manifest["files"]:
            raise CloudsError(
                f"{path / FACTS} names the engine {shown(engine['file'])}, which is no file of the manifest",
                TAMPERED,
            )
    for graph in graphs:
        check_weights(bundle.file(graph), manifest["files"])
    return bundle
