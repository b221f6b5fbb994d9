"""Filling a SAM from a file: every tensor of it, and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clouds_deploy.errors import CloudsError

_TRACES: dict[str, dict[tuple[int, ...], str]] = {
    "image_encoder.blocks.0.norm1.weight": {(768,): "vit_b", (1024,): "vit_l", (1280,): "vit_h"},
    "image_encoder.layers.0.blocks.0.conv1.c.weight": {(256, 64, 1, 1): "mobile_sam"},
}
"""Tensors that tell which SAM a file is of."""


def fill(sam: nn.Module, path: Path) -> None:
    """Load a file strictly; numbers are converted to the module's own type.

    Args:
        sam: The module, on the meta device or not; it takes the file's tensors for its own.
        path: `.pth` or `.pt` (read as data, never run), or `.safetensors`.

    Raises:
        CloudsError: The file cannot be read, or does not hold exactly this model; every name that is missing,
            unexpected or of another shape is in the message.
    """
    from clouds_deploy.models.importing.reader import read_checkpoint

    state = read_checkpoint(path)
    own: Mapping[str, Tensor] = sam.state_dict()
    faults = [
        _count("missing", (f"`{name}`" for name in own if name not in state)),
        _count("unexpected", (f"`{name}`" for name in state if name not in own)),
        _count(
            "of another shape",
            (
                f"`{name}` {list(state[name].shape)} instead of {list(tensor.shape)}"
                for name, tensor in own.items()
                if name in state and state[name].shape != tensor.shape
            ),
        ),
    ]
    if any(faults):
        known = recognise(state)
        raise CloudsError(
            f"{path} does not hold this model; " + "; ".join(fault for fault in faults if fault),
            f"these are weights of `{known}`" if known else "give the weights of this model",
        )
    filled = {name: state[name].to(tensor.dtype) for name, tensor in own.items()}
    sam.load_state_dict(filled, assign=True)


def recognise(state: Mapping[str, Any]) -> str | None:
    """Tell which SAM a file's tensors are of, by the shape of one; None when it is none that is known."""
    for name, shapes in _TRACES.items():
        if name in state:
            return shapes.get(tuple(state[name].shape))
    return None


def _count(what: str, names: Iterable[str]) -> str:
    listed = list(names)
    return f"{len(listed)} {what}: " + ", ".join(listed) if listed else ""
