"""PyTorch on the run's own weights: eager, the reference of every other runtime, or compiled.

Compiled either when it first runs (`torch.compile`), or once for this machine (AOTInductor), into a shared
library that is kept.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from clouds_deploy.artifacts import MANIFEST, atomic_path, cache_folder, processor_name, read_json, sha256
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.bundles.bundle import FACTS, SEGMENTER, Bundle
from clouds_deploy.bundles.tensors import Array, GraphSpec, TensorSpec
from clouds_deploy.errors import CloudsError, first_line

if TYPE_CHECKING:
    from torch import nn

    from clouds_deploy.models.clouds.deformable_attention import Form
    from clouds_deploy.models.clouds.segmenter import Inference, Segmenter


LARGEST_BATCH = 64
"""Of a graph that was compiled ahead of time."""


def gpu_count() -> int:
    """Number of NVIDIA GPUs that PyTorch can use here."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class TorchSession:
    """A module behind a graph's contract, run by PyTorch; see `Session`.

    Args:
        graph: The module, with its weights; it takes the inputs in their order, and gives one tensor or more.
        specs: What it takes and gives.
        options: How to run.

    Raises:
        CloudsError: The device or the precision is not there.
    """

    def __init__(
        self,
        graph: nn.Module,
        specs: GraphSpec,
        options: Options,
    ) -> None:
        import torch

        if options.precision != "f32":
            raise CloudsError("the torch backend is the float32 reference", "use openvino for bf16")
        if options.device != "cpu" and not (options.device.startswith("cuda") and torch.cuda.is_available()):
            raise CloudsError(f"torch has no device `{options.device}` here", "use `cpu`")
        if options.threads is not None:
            torch.set_num_threads(options.threads)
        self._graph: Callable[..., Any] | None = graph.to(options.device)
        self.backend, self.device = "torch", options.device
        self.inputs, self.outputs = specs.inputs, specs.outputs

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
            self._graph = torch.compile(self._graph, dynamic=False)
        self.backend = "torch-compile"
        return self

    def compile_ahead(self, key: str, most: int = LARGEST_BATCH) -> TorchSession:
        """Have AOTInductor compile the graph for this machine and any batch, or take what it made before.

        Args:
            key: Tells the graph and its weights from others.
            most: The largest batch.

        Returns:
            The session.

        Raises:
            CloudsError: It cannot be exported or compiled; a C++ compiler is needed.
        """
        from torch._inductor import aoti_load_package

        package = _package(key, self.device, most)
        if not package.is_file():
            _compile_ahead(cast("nn.Module", self._graph), self.inputs, self.device, most, package)
        self._graph = aoti_load_package(str(package))
        self.backend = "torch-aot"
        return self

    def close(self) -> None:
        """Let go of the model."""
        self._graph = None


def _package(key: str, device: str, most: int) -> Path:
    """Say where a compiled graph is kept: shared libraries fit one version of torch and one processor."""
    import torch

    facts = [key, torch.__version__, device, processor_name(), torch.backends.cpu.get_cpu_capability(), most]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return cache_folder("aot") / f"{name}.pt2"


def _compile_ahead(
    graph: nn.Module, inputs: tuple[TensorSpec, ...], device: str, most: int, package: Path
) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package

    batch = torch.export.Dim("batch", min=1, max=most)
    example = [torch.zeros([d or 2 for d in spec.shape], device=device) for spec in inputs]
    example = [t.to(getattr(torch, spec.dtype)) for t, spec in zip(example, inputs, strict=True)]
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # PyTorch's own, of its own modules
            graph.eval().requires_grad_(False)
            program = torch.export.export(graph, tuple(example), dynamic_shapes=({0: batch},))
            with atomic_path(package) as made:
                built = aoti_compile_and_package(program, package_path=f"{made}.pt2")
                Path(built).rename(made)
    except CloudsError:
        raise
    except Exception as error:
        raise CloudsError(
            f"AOTInductor compiled no graph: {first_line(error)}", "it needs a C++ compiler, such as g++"
        ) from error


def load_source(bundle: Bundle) -> Segmenter:
    """Build the segmenter a bundle was exported from, out of the weights packed with it.

    Raises:
        CloudsError: The bundle was made without its source.
    """
    from clouds_deploy.models.clouds.store import empty_segmenter, fill, read_run_recipe, read_weights

    source = bundle.source
    if source is None:
        raise CloudsError(
            f"{bundle.path} holds no weights for PyTorch", "export the run again with its source included"
        )
    recipe = read_run_recipe(source)
    provenance = str(read_json(bundle.path / FACTS)["backbone_weights"])
    segmenter = empty_segmenter(recipe.model, provenance)
    fill(segmenter, read_weights(source), str(source))
    return segmenter.eval().set_form("grid_sample")


def open_torch_aot(bundle: Bundle, options: Options) -> TorchSession:
    """Load a bundle's source, compiled ahead of time; errors as `open_torch` and `compile_ahead`.

    Raises:
        CloudsError: The bundle's classes are an input, too.
    """
    if len(bundle.inputs) > 1:
        raise CloudsError(
            "torch-aot takes images only, and this bundle takes its vocabulary too", "use torch-compile"
        )
    key = sha256(bundle.path / MANIFEST)
    return open_torch(bundle, options, form="gather").compile_ahead(key)


def open_torch(bundle: Bundle, options: Options, form: Form = "grid_sample") -> TorchSession:
    """Load a bundle's source into PyTorch; errors as `load_source` and `TorchSession`."""
    from clouds_deploy.models.clouds.graph import SegmenterGraph
    from clouds_deploy.models.clouds.names import SCORES

    scores = any(spec.name == SCORES for spec in bundle.outputs)
    source = load_source(bundle).set_form(form)
    graph = SegmenterGraph(source, inference=cast("Inference", bundle.inference), scores=scores)
    return TorchSession(graph, bundle.graphs[SEGMENTER], options)
