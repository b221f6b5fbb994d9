"""PyTorch: the one module of the lower layers that imports it, always inside functions.

A bundle's own weights as a session: eager, the reference of all other backends, or compiled, either when it
first runs (`torch.compile`) or once for this machine into a shared library that is kept (AOTInductor). A run
without an export, a SAM by its name, and buffers on a GPU for TensorRT's engines.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from clouds_deploy.artifacts import MANIFEST, atomic_path, cache_folder, processor_name, sha256
from clouds_deploy.backends.device import resolve_device
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import check_feeds
from clouds_deploy.bundles.bundle import DECODER, ENCODER, SEGMENTER, Bundle
from clouds_deploy.bundles.sam_specs import sam_specs
from clouds_deploy.bundles.tensors import Array, GraphSpec, TensorSpec
from clouds_deploy.config.precision import Precision
from clouds_deploy.data.images import network_size, resize
from clouds_deploy.errors import CloudsError, first_line, install

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clouds_deploy.models.clouds.deformable_attention import Form
    from clouds_deploy.models.clouds.scores import Inference, Scores
    from clouds_deploy.models.clouds.segmenter import Segmenter
    from clouds_deploy.models.sam.build import SamModel

Images = npt.NDArray[np.uint8]


LARGEST_BATCH = 64
"""Of a graph that was compiled ahead of time."""


def require_torch(what: str) -> None:
    """Refuses to go on where PyTorch is not installed.

    Args:
        what: What needs it, such as "a training run".

    Raises:
        CloudsError: It is not installed.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise CloudsError(f"{what} needs PyTorch", install("train")) from error


def gpu_count() -> int:
    """Number of NVIDIA GPUs that PyTorch can use here."""
    require_torch("the backend torch")
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


class TorchSession:
    """A module behind a graph's contract, run by PyTorch; see `Session`.

    Args:
        graph: The module, with its weights; it takes the inputs in their order, and gives one tensor or more.
        specs: What it takes and gives.
        options: How to run; the device is `cpu` or `cuda:N`.

    Raises:
        CloudsError: The device or the precision is not there.
    """

    def __init__(
        self,
        graph: nn.Module,
        specs: GraphSpec,
        options: Options,
    ) -> None:
        device = _prepared(options)
        self._graph: Callable[..., Any] | None = graph.to(device)
        self.backend, self.device = "torch", device
        self.precision: Precision = "fp32"
        self.inputs, self.outputs = specs.inputs, specs.outputs

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Runs once; see `Session.run`."""
        import torch

        results = self._compute(self._tensors(feeds))
        results = (results,) if isinstance(results, torch.Tensor) else results
        return {spec.name: t.cpu().numpy() for spec, t in zip(self.outputs, results, strict=True)}

    def stage(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """Copies inputs to the device; see `session.Staged.stage`."""
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
        """Compiles the graph with Inductor; the first run of every shape takes long. Returns the session."""
        import torch

        if self._graph is not None:
            self._graph = torch.compile(self._graph, dynamic=False)
        self.backend = "torch-compile"
        return self

    def compile_ahead(self, key: str, most: int = LARGEST_BATCH) -> TorchSession:
        """Compiles the graph with AOTInductor for this machine and any batch, or takes it from the cache.

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
        """Releases the model."""
        self._graph = None


def _package(key: str, device: str, most: int) -> Path:
    """Where a compiled graph is kept: shared libraries fit one version of torch and one processor."""
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


def _prepared(options: Options) -> str:
    """The device to compute on, once PyTorch has the threads that were asked for."""
    import torch

    if options.precision != "fp32":
        raise CloudsError("the torch backend is the float32 reference", "use openvino for bf16")
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return resolve_device(options.device, "torch")


def load_source(bundle: Bundle) -> Segmenter:
    """Builds the segmenter a bundle was exported from, out of the weights packed with it.

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
    segmenter = empty_segmenter(recipe.model, bundle.weights, recipe.data.classes)
    fill(segmenter, read_weights(source), str(source))
    return segmenter.eval().set_form("grid_sample")


def open_torch(bundle: Bundle, backend: str, options: Options) -> TorchSession:
    """Loads a segmenter bundle's own weights into PyTorch.

    Args:
        bundle: The bundle.
        backend: `torch`, `torch-compile` or `torch-aot`.
        options: How to run.

    Raises:
        CloudsError: PyTorch is not installed; the bundle holds no weights; see also `TorchSession` and
            `compile_ahead`. `torch-aot` takes images only, so no bundle with a vocabulary.
    """
    require_torch(f"the backend {backend}")
    ahead = backend == "torch-aot"
    if ahead and len(bundle.inputs) > 1:
        raise CloudsError(
            "torch-aot takes images only, and this bundle takes its vocabulary too", "use torch-compile"
        )
    from clouds_deploy.models.clouds.graph import SegmenterGraph
    from clouds_deploy.models.clouds.names import SCORES

    form: Form = "gather" if ahead else "grid_sample"
    scores = any(spec.name == SCORES for spec in bundle.outputs)
    source = load_source(bundle).set_form(form)
    graph = SegmenterGraph(source, inference=cast("Inference", bundle.inference), scores=scores)
    session = TorchSession(graph, bundle.graphs[SEGMENTER], options)
    if ahead:
        return session.compile_ahead(sha256(bundle.path / MANIFEST))
    return session.compile() if backend == "torch-compile" else session


class TorchRun:
    """A finished run in PyTorch, computed at the size that its recipe evaluates at.

    Args:
        run: Its directory.
        options: How to run.
        checkpoint: `best`, `last` or a number of steps, also of an unfinished run; see `open_checkpoint`.

    Raises:
        CloudsError: PyTorch is not installed; it is no finished run; see also `TorchSession`.
    """

    def __init__(self, run: Path, options: Options, checkpoint: str | None = None) -> None:
        require_torch("a training run")
        from clouds_deploy.models.checkpoints import open_checkpoint

        self.device = _prepared(options)
        opened = open_checkpoint(run, checkpoint)
        self.recipe, segmenter = opened.recipe, opened.segmenter
        self.sha256, self.step = opened.sha256, opened.step
        self.weights = segmenter.backbone.weights
        self.scores = scorer(segmenter, self.recipe.evaluate.short_side, self.device)

    def labels(self, image: Images, *, shares: bool = False) -> tuple[Images, Images | None]:
        """Labels one image at its own size; scores are resized bilinearly before the argmax.

        Args:
            image: (H, W, 3) uint8 RGB.
            shares: Whether to compute confidences.

        Returns:
            (H, W) uint8 labels, and, if asked for, (H, W) uint8 of 255 times the best class's share of all
            scores.
        """
        import torch

        with torch.inference_mode():
            scores = self.scores(image[None])[0]
            labels, trust = scores.labels((image.shape[0], image.shape[1]), shares=shares)
            return labels.cpu().numpy(), None if trust is None else trust.cpu().numpy()

    def scores_at(self, image: Images, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Class scores of one image, resized bilinearly.

        Args:
            image: (H, W, 3) uint8 RGB.
            size: Rows and columns of the result.

        Returns:
            (C, *size) float32, not negative.
        """
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            scores = self.scores(image[None])[0].whole()
            if tuple(scores.shape[1:]) != size:
                scores = F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
            found: npt.NDArray[np.float32] = scores.cpu().numpy()
        return found


def upscaled_labels(scores: Tensor | Scores, size: tuple[int, int]) -> Images:
    """Labels of one image's scores (C, h, w) at a size of its own; see `models.clouds.scores`."""
    import torch

    from clouds_deploy.models.clouds.scores import Scores, labels_at

    with torch.inference_mode():
        found = scores.labels(size) if isinstance(scores, Scores) else labels_at(scores.float(), size)
        labels: Images = found[0].cpu().numpy()
    return labels


def scorer(segmenter: Segmenter, short_side: int | None, device: Any) -> Callable[[Images], Scores]:
    """Function that scores images; the model is moved to the device and put in evaluation mode.

    Args:
        segmenter: The model.
        short_side: Shorter side that images are resized to; None leaves them as they are, see `network_size`.
        device: Where to compute.

    Returns:
        (B, H, W, 3) uint8 RGB to class scores (B, C, h, w) at the size that the model saw.
    """
    import torch

    segmenter.to(device).eval()

    @torch.inference_mode()
    def score(images: Images) -> Scores:
        size = network_size(images.shape[1], images.shape[2], short_side)
        seen = np.stack([resize(image, size) for image in images])
        return segmenter.lazy_scores(torch.from_numpy(seen).to(device).permute(0, 3, 1, 2))

    return score


def named_sam(
    name: str, weights: str | Path | None, seed: int | None, options: Options
) -> tuple[TorchSession, TorchSession, str, dict[str, Any]]:
    """Loads a SAM by its name; see `models.sam.build.load_sam`.

    Args:
        name: Its name.
        weights: A weight file, or `random`; None for those of the package.
        seed: Of random weights; None draws them from PyTorch's own random state.
        options: How to run.

    Returns:
        Encoder, decoder, the plain name, and where the weights are from: `weights` and their `sha256`.

    Raises:
        CloudsError: PyTorch is not installed; see also `load_sam` and `TorchSession`.
    """
    require_torch(f"`{name}` is no bundle: a SAM by its name")
    from clouds_deploy.models.sam.build import load_sam, load_seeded

    model = load_sam(name, weights) if seed is None else load_seeded(name, weights, seed)
    encoder, decoder = sam_sessions(model, options)
    return encoder, decoder, model.name, {"weights": model.source, "sha256": model.sha256}


def sam_sessions(model: SamModel, options: Options) -> tuple[TorchSession, TorchSession]:
    """A SAM's encoder and decoder as sessions; the model is moved to the device."""
    from clouds_deploy.models.sam.decoder import SamDecoder
    from clouds_deploy.models.sam.encoder import SamEncoder

    specs = sam_specs(model.sam)
    return (
        TorchSession(SamEncoder(model.sam), specs[ENCODER], options),
        TorchSession(SamDecoder(model.sam), specs[DECODER], options),
    )
