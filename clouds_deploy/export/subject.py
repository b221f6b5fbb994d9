"""What an export has to know of a model: the side of `export` on which segmenters and SAMs differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.backends.backends import open_graph
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import Session
from clouds_deploy.backends.tensorrt.shapes import Shapes
from clouds_deploy.bundles.tensors import Array
from clouds_deploy.config.export import ExportConfig, ExportOptions, SamExportConfig
from clouds_deploy.export.gates import BATCH, Gate
from clouds_deploy.export.half import Typed
from clouds_deploy.export.int8 import Quantized
from clouds_deploy.export.trace import Exported

if TYPE_CHECKING:
    import onnx_ir as ir


class Subject(ABC):
    """A segmenter or a SAM to export.

    Attributes:
        kind: The bundle's, in its manifest.
        what: What it is, in a word or two.
        weights: The fact that tells where the weights came from.
        summary: Other facts that `export` returns.
        choices: What was chosen among the user's files, which `export` returns too.
        free: Inputs of its graphs with other free axes than the batch; see `lint`.
        options: What was asked for.
        device: Where PyTorch computes.
        limits: The export recipe.
        facts: What `bundle.json` will hold.
        images: The images that the gates look at.
        engines: While engines are proven: the engine's file by the graph's.
    """

    kind: str
    what: str
    weights: str
    summary: tuple[str, ...]
    choices: Mapping[str, Any] = {}
    free: Mapping[str, Sequence[int]] = {}
    options: ExportOptions
    device: str
    limits: ExportConfig | SamExportConfig
    facts: dict[str, Any]
    images: Array
    engines: Mapping[Path, Path] = {}

    def open(self, graph: Path, engine: str) -> Session:
        """A session of a graph on a backend that reads ONNX, or of the engine that was built from it."""
        if graph not in self.engines:
            return open_graph(graph, engine)
        from clouds_deploy.backends.tensorrt.session import EngineSession

        own = self.limits.engine.version_compatible
        return EngineSession(self.engines[graph], engine, Options("cuda:0"), host_code=own)

    def batches(self) -> int:
        """Images in a batch of the gates: what engines take, at most `BATCH`."""
        most = (self.options.batch or self.limits.engine.batch)[2]
        return min(BATCH, most) if self.engines else BATCH

    @abstractmethod
    def metadata(self) -> dict[str, str]:
        """Facts that are written into the graphs' files."""

    @abstractmethod
    def manifest(self) -> dict[str, Any]:
        """What the bundle's manifest records of it: `inputs`, `config`."""

    @abstractmethod
    def trace(self) -> dict[str, Exported]:
        """The float32 graphs, by name."""

    def files(self, models: Mapping[str, ir.Model]) -> dict[str, ir.Model]:
        """The graphs to write, by the name of the file; those under other names serve the gates only."""
        return dict(models)

    @abstractmethod
    def compute_reference(self) -> None:
        """Has PyTorch compute what is right."""

    @abstractmethod
    def reference(self) -> dict[str, Array]:
        """The inputs and expected results that are packed with the bundle."""

    @abstractmethod
    def prove(
        self, engine: str, folder: Path, precision: str, label: str, *, rounded: bool = False
    ) -> list[Gate]:
        """The gates of the graphs on one backend, and of results that must not depend on the batch.

        Args:
            engine: A backend that reads ONNX.
            folder: Where the files are.
            precision: The graphs'.
            label: What the gates call the backend.
            rounded: Whether the graphs spell their rounding out, see `half.rounded`; batches are then not
                looked at.

        Raises:
            CloudsError: The backend is not installed or refuses a graph.
        """

    @abstractmethod
    def lower(self, models: Mapping[str, ir.Model], precision: str) -> Mapping[str, Typed | Quantized]:
        """The graphs in a lower precision; what was done is noted in the facts."""

    @abstractmethod
    def precision_gates(self, folder: Path, precision: str) -> list[Gate]:
        """The gates that the files are of a lower precision."""

    def measure(self, folder: Path, engines: Sequence[str], precision: str) -> list[Gate]:
        """The gates of what the graphs lose on labelled images, where there are any."""
        return []

    @abstractmethod
    def flops(self, folder: Path) -> dict[str, Any]:
        """The floating-point operations of the graphs for one image, by type."""

    @abstractmethod
    def profiles(self, batch: tuple[int, int, int]) -> dict[str, Shapes]:
        """The smallest, most likely and largest shape of each graph's inputs in an engine."""

    def explain(self, gate: Gate, *, folder: Path, original: Mapping[str, ir.Model] | None, out: Path) -> str:
        """Where a graph that failed a gate goes wrong, in a sentence; an empty one where that is not known.

        Args:
            gate: The failed one.
            folder: Where the files are.
            original: The float32 graphs of lowered ones.
            out: The bundle; a reproducer of the fault lies beside it.
        """
        return ""

    def pack(self, folder: Path) -> None:  # noqa: B027 - nothing is the default
        """Adds what the bundle holds beside graphs and evidence."""
