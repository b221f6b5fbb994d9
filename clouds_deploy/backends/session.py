"""What every backend looks like from outside: named arrays in, named arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.config.precision import Precision
from clouds_deploy.errors import CloudsError, nearest


class Session(Protocol):
    """A loaded graph on one device, ready to run.

    Attributes:
        backend: Its name in `BACKENDS`.
        device: Where it computes: `cpu`, `cuda:N`, or another device of OpenVINO.
        precision: See `Options`.
        inputs: What `run` takes.
        outputs: What `run` returns.
    """

    backend: str
    device: str
    precision: Precision
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once.

        Args:
            feeds: One array for every input, by name, of its dtype and shape.

        Returns:
            One array for every output, by name; they are the caller's own.

        Raises:
            CloudsError: A feed is missing, too many, or of another dtype or shape.
        """
        ...

    def close(self) -> None:
        """Releases the graph and its memory; the session cannot run afterwards."""
        ...


@runtime_checkable
class Staged(Protocol):
    """A session that can leave its inputs and outputs where it computes."""

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copies inputs to where the backend computes, once.

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
    """Refuses wrong feeds, with a message that names the input.

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


class FixedInputs:
    """A session with some inputs set once; its caller passes the rest. See `Session`.

    Args:
        session: What runs.
        feeds: The inputs that stay, by name.
    """

    def __init__(self, session: Session, feeds: Mapping[str, Array]) -> None:
        self._session, self._feeds = session, dict(feeds)
        self.backend, self.device, self.precision = session.backend, session.device, session.precision
        self.inputs = tuple(spec for spec in session.inputs if spec.name not in feeds)
        self.outputs = session.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`."""
        return self._session.run({**feeds, **self._feeds})

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """See `session.Staged.stage`; all backends can."""
        session = self._session
        assert isinstance(session, Staged)
        return session.stage({**feeds, **self._feeds})

    def close(self) -> None:
        """See `Session.close`."""
        self._session.close()

    def __getattr__(self, name: str) -> Any:
        """What a backend has beside the protocol."""
        return getattr(self._session, name)
