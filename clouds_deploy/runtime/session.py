"""What every runtime looks like from outside: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from clouds_deploy.errors import CloudsError, nearest

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
        """Give the specification as JSON values."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TensorSpec:
        """Read what `to_json` gave."""
        return TensorSpec(str(value["name"]), str(value["dtype"]), tuple(value["shape"]))

    def __str__(self) -> str:
        sizes = ", ".join("any" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype} ({sizes})"


class Session(Protocol):
    """A loaded graph on one device, ready to run.

    Attributes:
        backend: The runtime's name in `BACKENDS`.
        device: Where it runs, in the runtime's own words.
        inputs: What `run` takes.
        outputs: What `run` gives.
    """

    backend: str
    device: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Args:
            feeds: One array for every input, by name, of its dtype and shape.

        Returns:
            One array for every output, by name; they are the caller's own.

        Raises:
            CloudsError: A feed is missing, too many, or of another dtype or shape.
        """
        ...

    def close(self) -> None:
        """Let go of the graph and its memory; the session cannot run afterwards."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A session that can leave its inputs and outputs where it computes."""

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Put inputs where the runtime computes, once.

        Args:
            feeds: As `Session.run` takes them.

        Returns:
            What runs on them, is finished when it returns, and leaves the results there: `run` without its
            transfers.

        Raises:
            CloudsError: See `Session.run`.
        """
        ...


def check_feeds(specs: Sequence[TensorSpec], feeds: Mapping[str, Array]) -> None:
    """Refuse feeds that a runtime would refuse with words nobody understands.

    Raises:
        CloudsError: A feed is missing, too many, or of another dtype or shape.
    """
    wanted = {spec.name: spec for spec in specs}
    for name in feeds:
        if name not in wanted:
            raise CloudsError(f"the graph has no input `{name}`", nearest(name, wanted))
    for name, spec in wanted.items():
        if name not in feeds:
            raise CloudsError(f"input `{name}` is missing", f"feed {spec}")
        array = feeds[name]
        if not isinstance(array, np.ndarray) or array.dtype.name != spec.dtype:
            given = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
            raise CloudsError(f"input `{name}` is {given}, not {spec.dtype}", f"feed {spec}")
        fits = len(array.shape) == len(spec.shape) and all(
            have > 0 and want in (None, have) for have, want in zip(array.shape, spec.shape, strict=True)
        )
        if not fits:
            raise CloudsError(
                f"input `{name}` has shape {list(array.shape)}, the graph takes {spec}",
                "resize the image to the graph's size, or export the run at the size you need",
            )
