"""Names, types and shapes of what graphs take and give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: Its name in the graph.
        dtype: Its numpy dtype by name, such as `uint8`.
        shape: Its shape; None where the size is free, as the batch is.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the specification as JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TensorSpec:
        """Reads what `to_json` returned."""
        return TensorSpec(str(value["name"]), str(value["dtype"]), tuple(value["shape"]))

    def __str__(self) -> str:
        sizes = ", ".join("any" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"


@dataclass(frozen=True)
class GraphSpec:
    """Inputs and outputs of a graph.

    Attributes:
        inputs: What it takes, in its own order.
        outputs: What it gives, in its own order.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns the specification as JSON values."""
        return {
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> GraphSpec:
        """Reads what `to_json` returned; other keys are ignored."""
        inputs, outputs = (tuple(map(TensorSpec.from_json, value[side])) for side in ("inputs", "outputs"))
        return GraphSpec(inputs, outputs)
