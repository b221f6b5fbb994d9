"""The runtimes there are, and how one is opened on a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from clouds_deploy.backends.options import Options, Precision
from clouds_deploy.backends.session import FixedInputs, Session
from clouds_deploy.backends.tensorrt.preflight import ENGINES
from clouds_deploy.bundles.bundle import KIND, SEGMENTER, Bundle, open_bundle
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.errors import CloudsError, nearest

BF16 = "openvino-bf16"
"""OpenVINO computing in bfloat16, never silently."""


def open_graph(graph: Path, backend: str, options: Options | None = None) -> Session:
    """Load an ONNX file into a runtime.

    Raises:
        CloudsError: The backend is unknown, does not read ONNX, is not installed or refuses the graph.
    """
    if backend == BF16:
        options = replace(options or Options(), precision="bf16")
    if backend == "onnxruntime":
        from clouds_deploy.backends.onnxruntime_session import OnnxRuntimeSession

        return OnnxRuntimeSession(graph, options or Options())
    if backend in ("openvino", BF16):
        from clouds_deploy.backends.openvino.session import OpenVinoSession

        return OpenVinoSession(graph, options or Options())
    raise CloudsError(f"no backend `{backend}` reads ONNX", nearest(backend, GRAPH_BACKENDS))


def check_graph_backends(names: Iterable[str]) -> None:
    """Refuse names of runtimes to prove a graph on that do not read ONNX.

    Raises:
        CloudsError: One does not; the hint knows the engines that are built, too.
    """
    for name in names:
        if name not in GRAPH_BACKENDS:
            known = (*GRAPH_BACKENDS, *ENGINES)
            raise CloudsError(f"there is no engine `{name}` to prove or build", nearest(name, known))


def runs(backend: str, precision: str) -> bool:
    """Tell whether a backend has what a graph of a precision needs: ONNX Runtime's CPU knows no bfloat16."""
    return (backend, precision) != ("onnxruntime", "bf16")


def readers(precision: str) -> tuple[str, ...]:
    """Give the backends that run a bundle's graphs in a precision."""
    return tuple(backend for backend in GRAPH_BACKENDS if runs(backend, precision))


def require_runs(backend: str, precision: str) -> None:
    """Refuse what `runs` denies.

    Raises:
        CloudsError: The backend cannot run a graph of this precision.
    """
    if not runs(backend, precision):
        raise CloudsError(f"{backend} runs no graph in {precision}", "use --backend openvino, or an engine")


def _torch(bundle: Bundle, options: Options) -> Session:
    from clouds_deploy.backends.torch_session import open_torch

    return open_torch(bundle, options)


def _graph(name: str) -> Callable[[Bundle, Options], Session]:
    return lambda bundle, options: open_graph(bundle.file(), name, options)


def _engine(name: str) -> Callable[[Bundle, Options], Session]:
    def open_it(bundle: Bundle, options: Options) -> Session:
        from clouds_deploy.backends.tensorrt.session import open_engine

        return open_engine(name, SEGMENTER, bundle.facts.get("engines", ()), bundle.path, options)

    return open_it


def _torch_compile(bundle: Bundle, options: Options) -> Session:
    from clouds_deploy.backends.torch_session import open_torch

    return open_torch(bundle, options).compile()


def _torch_aot(bundle: Bundle, options: Options) -> Session:
    from clouds_deploy.backends.torch_session import open_torch_aot

    return open_torch_aot(bundle, options)


GRAPH_BACKENDS = ("onnxruntime", "openvino")
"""The backends that run the bundle's ONNX file."""

BACKENDS: dict[str, Callable[[Bundle, Options], Session]] = {
    "torch": _torch,
    "torch-compile": _torch_compile,
    "torch-aot": _torch_aot,
    **{name: _graph(name) for name in (*GRAPH_BACKENDS, BF16)},
    **{name: _engine(name) for name in ENGINES},
}
"""Every backend by name; `torch` is eager PyTorch on the run's own weights, the reference; `torch-compile` is
the same through Inductor, `torch-aot` through AOTInductor, both of which need a C++ compiler; `tensorrt` and
`tensorrt-rtx` run the engines in the bundle."""


def open_session(
    bundle: Path | Bundle,
    backend: str = "onnxruntime",
    *,
    device: str = "cpu",
    threads: int | None = None,
    precision: Precision = "f32",
    batch: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> Session:
    """Load a bundle into a runtime; the session takes images and nothing else.

    Args:
        bundle: Its directory, or the bundle already opened.
        backend: A name in `BACKENDS`.
        device: See `Options`.
        threads: See `Options`.
        precision: See `Options`.
        batch: See `Options`.
        vocabulary: Other classes than the bundle's own, text head only.

    Raises:
        CloudsError: The bundle does not hold; it has no vocabulary, or one of another width; the backend is
            unknown, not installed, or cannot run on the device that was asked for.
    """
    if backend not in BACKENDS:
        raise CloudsError(f"there is no backend `{backend}`", nearest(backend, BACKENDS))
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, KIND)
    chosen = vocabulary or opened.vocabulary()
    require_runs(backend, opened.precision)
    if vocabulary is not None:
        vocabulary.check("the vocabulary")
    feeds = {} if chosen is None else chosen.feeds(opened.inputs, str(opened.path))
    session = BACKENDS[backend](opened, Options(device, threads, precision, batch))
    return FixedInputs(session, feeds) if feeds else session
