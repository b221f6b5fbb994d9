"""The backends there are, and how one is opened on a bundle's graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import cast

from clouds_deploy.backends.device import resolve_device
from clouds_deploy.backends.options import Options
from clouds_deploy.backends.session import FixedInputs, Session
from clouds_deploy.backends.tensorrt.machine import ENGINES
from clouds_deploy.bundles.bundle import KIND, SEGMENTER, Bundle, open_bundle
from clouds_deploy.bundles.tensors import TensorSpec
from clouds_deploy.bundles.vocabulary import Vocabulary
from clouds_deploy.config.precision import Precision
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError, nearest

BF16 = "openvino-bf16"
"""OpenVINO computing in bfloat16, where a bench names backends to compare; elsewhere a precision."""
GRAPH_BACKENDS = ("onnxruntime", "openvino")
"""Backends that run a bundle's ONNX files."""
TORCH_BACKENDS = ("torch", "torch-compile", "torch-aot")
"""PyTorch on a run's own weights: eager, the reference of all others; compiled by Inductor when it first
runs; compiled once for this machine by AOTInductor. Both compilers need a C++ compiler."""
SAM_BACKENDS = (*GRAPH_BACKENDS, BF16, *ENGINES)
"""Backends of a SAM's bundle."""
BACKENDS = (*TORCH_BACKENDS, *SAM_BACKENDS)
"""Every backend; `tensorrt` and `tensorrt-rtx` run the engines in the bundle."""


def chosen(backend: str, precision: str) -> tuple[str, Precision]:
    """Backend and precision that a user asked for, by today's names; says so where an earlier name was given.

    Raises:
        CloudsError: There is no such precision.
    """
    if backend == BF16:
        _note(f"--backend {BF16} is now --backend openvino --precision bf16")
        backend, precision = "openvino", "bf16"
    if precision == "f32":
        _note("the precision f32 is now called fp32")
        precision = "fp32"
    if precision not in ("fp32", "bf16"):
        raise CloudsError(f"there is no precision `{precision}`", nearest(precision, ("fp32", "bf16")))
    return backend, cast("Precision", precision)


@cache
def _note(text: str) -> None:
    say(f"  {text}")


def open_graph(graph: Path, backend: str, options: Options | None = None) -> Session:
    """Loads an ONNX file.

    Raises:
        CloudsError: The backend is unknown, does not read ONNX, is not installed or refuses the graph; it
            cannot compute on the device.
    """
    asked = options or Options()
    if backend == BF16:
        backend, asked = "openvino", replace(asked, precision="bf16")
    if backend not in GRAPH_BACKENDS:
        raise CloudsError(f"no backend `{backend}` reads ONNX", nearest(backend, GRAPH_BACKENDS))
    given = replace(asked, device=resolve_device(asked.device, backend))
    if backend == "openvino":
        from clouds_deploy.backends.openvino.session import OpenVinoSession

        return OpenVinoSession(graph, given)
    from clouds_deploy.backends.onnxruntime_session import NoCuda, OnnxRuntimeSession

    try:
        return OnnxRuntimeSession(graph, given)
    except NoCuda as reason:
        if asked.device != "auto":
            raise
        _note(f"{reason.message}: the CPU computes")
        return OnnxRuntimeSession(graph, replace(given, device="cpu"))


def check_graph_backends(names: Iterable[str]) -> None:
    """Refuses names of backends to prove a graph on that do not read ONNX.

    Raises:
        CloudsError: One does not; the hint knows the engines that are built, too.
    """
    for name in names:
        if name not in GRAPH_BACKENDS:
            known = (*GRAPH_BACKENDS, *ENGINES)
            raise CloudsError(f"there is no engine `{name}` to prove or build", nearest(name, known))


def runs(backend: str, precision: str) -> bool:
    """Whether a backend runs graphs of a precision: ONNX Runtime's CPU kernels know no bfloat16."""
    return (backend, precision) != ("onnxruntime", "bf16")


def readers(precision: str) -> tuple[str, ...]:
    """Backends that run a bundle's graphs of a precision."""
    return tuple(backend for backend in GRAPH_BACKENDS if runs(backend, precision))


def require_runs(backend: str, precision: str) -> None:
    """Refuses what `runs` denies.

    Raises:
        CloudsError: The backend cannot run a graph of this precision.
    """
    if not runs(backend, precision):
        raise CloudsError(f"{backend} runs no graph in {precision}", "use --backend openvino, or an engine")


def open_session(
    bundle: Path | Bundle,
    backend: str = "onnxruntime",
    graph: str = SEGMENTER,
    *,
    device: str = "auto",
    threads: int | None = None,
    precision: Precision = "fp32",
    batch: int | None = None,
    vocabulary: Vocabulary | None = None,
) -> Session:
    """Loads a graph of a bundle; a segmenter's session takes images and nothing else.

    Args:
        bundle: Its directory or `.clouds` file, or the bundle already opened.
        backend: A name in `BACKENDS`, of a SAM in `SAM_BACKENDS`.
        graph: A name in the bundle's `graphs`.
        device: See `Options`.
        threads: See `Options`.
        precision: See `Options`.
        batch: See `Options`.
        vocabulary: Other classes than the bundle's own, text head only.

    Raises:
        CloudsError: The bundle does not hold; it has no vocabulary, or one of another width; the backend is
            unknown, not installed, or cannot run on the device that was asked for.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    known, what = (BACKENDS, "") if opened.kind == KIND else (SAM_BACKENDS, " for a SAM")
    if backend not in known:
        raise CloudsError(f"there is no backend `{backend}`{what}", nearest(backend, known))
    require_runs(backend, opened.precision)
    if vocabulary is not None:
        vocabulary.check("the vocabulary")
    used = vocabulary or opened.vocabulary()
    feeds = {} if used is None else used.feeds(opened.graphs[graph].inputs, str(opened.path))
    session = _open(opened, backend, graph, Options(device, threads, precision, batch))
    return FixedInputs(session, feeds) if feeds else session


def _open(bundle: Bundle, backend: str, graph: str, options: Options) -> Session:
    if backend in ENGINES:
        from clouds_deploy.backends.tensorrt.session import open_engine

        given = replace(options, device=resolve_device(options.device, backend))
        return open_engine(backend, graph, bundle, given)
    if backend in TORCH_BACKENDS:
        from clouds_deploy.backends import torch_session

        return torch_session.open_torch(bundle, backend, options)
    session = open_graph(bundle.file(graph), backend, options)
    for side in ("inputs", "outputs"):
        _check_specs(getattr(bundle.graphs[graph], side), getattr(session, side), bundle)
    return session


def _check_specs(told: Iterable[TensorSpec], found: Iterable[TensorSpec], bundle: Bundle) -> None:
    """Refuses a graph that takes or gives other tensors than its bundle says."""
    own = {spec.name: spec for spec in found}
    for spec in told:
        there = own.get(spec.name)
        if there is None or spec.dtype != there.dtype or not _alike(spec.shape, there.shape):
            raise CloudsError(
                f"{bundle.path}: `{spec.name}` is of another shape in the graph than in bundle.json",
                "export the run again",
            )


def _alike(one: Sequence[int | None], other: Sequence[int | None]) -> bool:
    return len(one) == len(other) and all(
        None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True)
    )
