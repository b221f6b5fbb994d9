"""What a SAM's bundle holds and how it is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import read_json, read_manifest
from clouds_deploy.bundles.bundle import FACTS, GATES, REFERENCE
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.errors import CloudsError

KIND = "sam_bundle"
ENCODER = "encoder.onnx"
DECODER = "decoder.onnx"


@dataclass(frozen=True)
class SamBundle:
    """An opened bundle of a SAM.

    Attributes:
        path: Its directory.
        manifest: Its manifest, already checked.
        name: The model's name, one of `models.sam.build.NAMES`.
        image_size: Side of the square that the encoder sees.
        weights: `random`, `package <file>`, or `file <file>`.
        specs: Inputs and outputs of `encoder` and of `decoder`.
        facts: All of `bundle.json`.
    """

    path: Path
    manifest: dict[str, Any]
    name: str
    image_size: int
    weights: str
    specs: dict[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]]
    facts: dict[str, Any]

    @property
    def precision(self) -> str:
        """What the graphs compute in: `fp32` or `fp16`."""
        return str(self.facts["precision"])

    def gates(self) -> list[dict[str, Any]]:
        """Read what the bundle was proven by at its export."""
        return list(read_json(self.path / GATES)["gates"])

    def reference(self) -> dict[str, Array]:
        """Read both graphs' inputs packed with the bundle, and what `segment_anything` made of them.

        Returns:
            `image`, `size`, `image_index`, `point_coords`, `point_labels`; `image_embeddings`, `masks`,
            `iou_predictions`.
        """
        with np.load(self.path / REFERENCE, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}


def open_sam_bundle(path: Path, *, verify: bool = True) -> SamBundle:
    """Open a SAM's bundle and check that it is the one that was sealed.

    Args:
        path: Its directory.
        verify: Whether to compare every file with its sha256.

    Raises:
        CloudsError: It is no such bundle, or a file in it was changed or lost.
    """
    manifest = read_manifest(path, KIND, verify=verify)
    facts = read_json(path / FACTS)
    try:
        specs = {
            part: tuple(
                tuple(TensorSpec.from_json(value) for value in facts["graphs"][part][side])
                for side in ("inputs", "outputs")
            )
            for part in ("encoder", "decoder")
        }
        return SamBundle(
            path,
            manifest,
            str(facts["name"]),
            int(facts["image_size"]),
            str(facts["weights"]),
            specs,  # type: ignore[arg-type]
            facts,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CloudsError(
            f"{path / FACTS} lacks or garbles a fact: {error}", "export it again with this version"
        ) from error
