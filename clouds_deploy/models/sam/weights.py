"""Filling a SAM from a file: every tensor of it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.weights import compare, read_weight_file, shapes_of

_TRACES: dict[str, dict[tuple[int, ...], str]] = {
    "image_encoder.blocks.0.norm1.weight": {(768,): "vit_b", (1024,): "vit_l", (1280,): "vit_h"},
    "image_encoder.layers.0.blocks.0.conv1.c.weight": {(256, 64, 1, 1): "mobile_sam"},
}
"""Tensors that tell which SAM a file is of."""


def fill(sam: nn.Module, path: Path) -> None:
    """Loads a file strictly; numbers are converted to the module's own type.

    Args:
        sam: The module, on the meta device or not; it takes the file's tensors for its own.
        path: See `models.weights.read_weight_file`.

    Raises:
        CloudsError: The file cannot be read, or does not hold exactly this model; every name that is missing,
            unexpected or of another shape is in the message.
    """
    state = read_weight_file(path)
    own: Mapping[str, Tensor] = sam.state_dict()
    faults = compare(shapes_of(state), shapes_of(own))
    if faults:
        known = recognise(state)
        raise CloudsError(
            f"{path} does not hold this model:\n{faults}",
            f"these are weights of `{known}`" if known else "give the weights of this model",
        )
    filled = {name: state[name].to(tensor.dtype) for name, tensor in own.items()}
    sam.load_state_dict(filled, assign=True)


def recognise(state: Mapping[str, Any]) -> str | None:
    """Name of the SAM that a file's tensors are of, by the shape of one; None where it is unknown."""
    for name, shapes in _TRACES.items():
        if name in state:
            return shapes.get(tuple(state[name].shape))
    return None
