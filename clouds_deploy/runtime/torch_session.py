"""PyTorch in eager mode on the run's own weights: the reference every other runtime is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from clouds_deploy.artifacts import read_json
from clouds_deploy.config import parse_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.runtime.bundle import FACTS, Bundle
from clouds_deploy.runtime.options import Options
from clouds_deploy.runtime.session import Array, TensorSpec, check_feeds

if TYPE_CHECKING:
    from torch import nn

    from clouds_deploy.models.segmenter import Inference, Segmenter


class TorchSession:
    """A module behind a graph's contract, run by PyTorch; see `Session`.

    Args:
        graph: The module, with its weights; it takes the inputs in their order, and gives one tensor or more.
        inputs: What it takes.
        outputs: What it gives.
        options: How to run.

    Raises:
        CloudsError: The device or the precision is not there.
    """

    def __init__(
        self,
        graph: nn.Module,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        options: Options,
    ) -> None:
        import torch

        if options.precision != "f32":
            raise CloudsError("the torch backend is the float32 reference", "use openvino for bf16")
        if options.device != "cpu" and not (options.device.startswith("cuda") and torch.cuda.is_available()):
            raise CloudsError(f"torch has no device `{options.device}` here", "use `cpu`")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._graph: nn.Module | None = graph.to(options.device)
        self.backend, self.device = "torch", options.device
        self.inputs, self.outputs = inputs, outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once; see `Session.run`."""
        import torch

        results = self._compute(self._tensors(feeds))
        results = (results,) if isinstance(results, torch.Tensor) else results
        return {spec.name: t.cpu().numpy() for spec, t in zip(self.outputs, results, strict=True)}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Put inputs on the device; see `session.Staged.stage`."""
        import torch

        tensors = self._tensors(feeds)
        wait = torch.cuda.synchronize if self.device.startswith("cuda") else None

        def call() -> None:
            self._compute(tensors)
            if wait is not None:
                wait()

        return call

    def _tensors(self, feeds: Mapping[str, Array]) -> list[Any]:
        import torch

        check_feeds(self.inputs, feeds)
        return [torch.from_numpy(feeds[spec.name]).to(self.device) for spec in self.inputs]

    def _compute(self, tensors: list[Any]) -> Any:
        import torch

        if self._graph is None:
            raise CloudsError("the session is closed", "open it again")
        with torch.inference_mode():
            return self._graph(*tensors)

    def compile(self) -> TorchSession:
        """Have Inductor compile the graph; the first run of every shape takes long. Returns the session."""
        import torch

        if self._graph is not None:
            self._graph = torch.compile(self._graph, dynamic=False)  # type: ignore[assignment]
        self.backend = "torch-compile"
        return self

    def close(self) -> None:
        """Let go of the model."""
        self._graph = None


def load_source(bundle: Bundle) -> Segmenter:
    """Build the segmenter a bundle was exported from, out of the weights packed with it.

    Raises:
        CloudsError: The bundle was made without its source.
    """
    from clouds_deploy.models.store import RECIPE, empty_segmenter, fill, read_weights

    source = bundle.source
    if source is None:
        raise CloudsError(
            f"{bundle.path} holds no weights for PyTorch", "export the run again with its source included"
        )
    recipe = parse_recipe((source / RECIPE).read_text(encoding="utf-8"), str(source / RECIPE))
    provenance = str(read_json(bundle.path / FACTS)["backbone_weights"])
    segmenter = empty_segmenter(recipe.model, provenance)
    fill(segmenter, read_weights(source), str(source))
    return segmenter.eval().set_form("grid_sample")


def open_torch(bundle: Bundle, options: Options) -> TorchSession:
    """Load a bundle's source into PyTorch; errors as `load_source` and `TorchSession`."""
    from clouds_deploy.models.graph import SCORES, SegmenterGraph

    scores = any(spec.name == SCORES for spec in bundle.outputs)
    graph = SegmenterGraph(load_source(bundle), inference=cast("Inference", bundle.inference), scores=scores)
    return TorchSession(graph, bundle.inputs, bundle.outputs, options)
