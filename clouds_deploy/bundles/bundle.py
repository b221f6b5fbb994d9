"""What a bundle holds and how it is opened: the contract between export and everything that runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import read_json, read_manifest
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.bundles.vocabulary import FILE, Vocabulary
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.errors import CloudsError

KIND = "bundle"
GRAPH = "segmenter.onnx"
FACTS = "bundle.json"
REFERENCE = "reference.npz"
GATES = "gates.json"
SOURCE = "source"


@dataclass(frozen=True)
class Bundle:
    """An opened bundle.

    Attributes:
        path: Its directory.
        manifest: Its manifest, already checked.
        inputs: What the graph takes.
        outputs: What the graph gives.
        height: Image height of the graph.
        width: Image width of the graph.
        mean_color: RGB that the normalisation turns into about zero; letterboxes are filled with it.
        inference: `exact` or `fast`; see `Segmenter.scores`.
        backbone_weights: Where the backbone's weights came from.
        recipe: The recipe the run was trained with.
        facts: All of `bundle.json`.
    """

    path: Path
    manifest: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    height: int
    width: int
    mean_color: tuple[int, int, int]
    inference: str
    backbone_weights: str
    recipe: Recipe
    facts: dict[str, Any]

    @property
    def graph(self) -> Path:
        """The ONNX file."""
        return self.path / GRAPH

    @property
    def precision(self) -> str:
        """What the graph computes in: `fp32` or `fp16`."""
        return str(self.facts.get("precision", "fp32"))

    @property
    def label_agreement(self) -> float:
        """Share of pixels whose label must equal PyTorch's, in the graph's precision."""
        return float(self.facts.get("label_agreement", self.recipe.export.label_agreement))

    @property
    def source(self) -> Path | None:
        """The directory of the recipe and the weights, where they were packed too."""
        return self.path / SOURCE if (self.path / SOURCE).is_dir() else None

    def vocabulary(self) -> Vocabulary | None:
        """Read the classes a text-headed graph was exported with; None for the linear head."""
        return Vocabulary.load(self.path / FILE) if (self.path / FILE).is_file() else None

    def gates(self) -> list[dict[str, Any]]:
        """Read what the bundle was proven by at its export."""
        return list(read_json(self.path / GATES)["gates"])

    def reference(self) -> tuple[Array, dict[str, Array]]:
        """Read the images packed with the bundle and what PyTorch made of them.

        Returns:
            images (N, H, W, 3) uint8, and by output name the expected arrays, N rows each.
        """
        with np.load(self.path / REFERENCE, allow_pickle=False) as arrays:
            expected = {name: arrays[name] for name in arrays.files if name != "image"}
            return arrays["image"], expected


def open_bundle(path: Path, *, verify: bool = True) -> Bundle:
    """Open a bundle and check that it is the one that was sealed.

    Args:
        path: Its directory.
        verify: Whether to compare every file with its sha256.

    Raises:
        CloudsError: It is no bundle, or a file in it was changed or lost.
    """
    manifest = read_manifest(path, KIND, verify=verify)
    facts = read_json(path / FACTS)
    try:
        return Bundle(
            path=path,
            manifest=manifest,
            inputs=tuple(TensorSpec.from_json(v) for v in facts["inputs"]),
            outputs=tuple(TensorSpec.from_json(v) for v in facts["outputs"]),
            height=int(facts["height"]),
            width=int(facts["width"]),
            mean_color=(*(int(v) for v in facts["mean_color"]),),  # type: ignore[arg-type]
            inference=str(facts["inference"]),
            backbone_weights=str(facts["backbone_weights"]),
            recipe=Recipe.model_validate(facts["recipe"]),
            facts=facts,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CloudsError(
            f"{path / FACTS} lacks or garbles a fact: {error}", "export it again with this version"
        ) from error
