"""Opens a SAM: a bundle on a backend, or a model by name in PyTorch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clouds_deploy.artifacts import MANIFEST, sha256
from clouds_deploy.backends.backends import BF16, GRAPH_BACKENDS, open_graph, require_runs
from clouds_deploy.backends.options import Options, Precision
from clouds_deploy.backends.session import Session
from clouds_deploy.backends.tensorrt.preflight import ENGINES
from clouds_deploy.bundles.bundle import DECODER, ENCODER, SAM_KIND, Bundle, open_bundle
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.inference.sam import Sam, images_at_once, torch_sam

SAM_BACKENDS = (*GRAPH_BACKENDS, BF16, *ENGINES)
"""The runtimes of a SAM's bundle."""


def open_sam(bundle: Path | Bundle, backend: str = "onnxruntime", options: Options | None = None) -> Sam:
    """Run a SAM's bundle.

    Args:
        bundle: Its directory, or the bundle already opened.
        backend: Of `SAM_BACKENDS`.
        options: How to run.

    Raises:
        CloudsError: The bundle does not hold; the backend is unknown, not installed, or refuses a graph.
    """
    if backend not in SAM_BACKENDS:
        raise CloudsError(f"there is no backend `{backend}` for a SAM", nearest(backend, SAM_BACKENDS))
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle, SAM_KIND)
    alone = options
    if backend not in ENGINES and images_at_once(opened.height) == 1:
        alone = replace(options or Options(), batch=1)
    encoder = open_part(opened, ENCODER, backend, alone)
    decoder = open_part(opened, DECODER, backend, options)
    facts = {
        "bundle": str(opened.path),
        "bundle_sha256": sha256(opened.path / MANIFEST),
        "weights": opened.weights,
        "precision": opened.precision,
    }
    return Sam(encoder, decoder, opened.name, facts=facts)


def open_part(
    bundle: Bundle, part: str, backend: str = "onnxruntime", options: Options | None = None
) -> Session:
    """Load one of the two graphs, `encoder` or `decoder`, or its engine, into a runtime; see `open_sam`."""
    if backend in ENGINES:
        from clouds_deploy.backends.tensorrt.session import open_engine

        built = bundle.facts.get("engines", ())
        return open_engine(backend, part, built, bundle.path, options or Options("cuda"))
    require_runs(backend, bundle.precision)
    return open_graph(bundle.file(part), backend, options)


def find_sam(
    name: str,
    weights: str | Path | None = None,
    backend: str | None = None,
    *,
    precision: Precision = "f32",
    seed: int = 0,
) -> Sam:
    """Open a SAM by its name, in PyTorch, or by its bundle's folder, on a runtime.

    Args:
        name: The folder of a bundle, or a name; see `models.sam.build.load_sam`.
        weights: Names only: see there.
        backend: Bundles only: the runtime; None is ONNX Runtime.
        precision: `bf16` computes in bfloat16, where the runtime can.
        seed: Of random weights.

    Raises:
        CloudsError: See `load_sam` and `open_sam`; weights were given for a bundle, or a runtime for a name.
    """
    if Path(name).is_dir():
        if weights is not None:
            raise CloudsError(f"{name} is a bundle, it has its weights", "leave --weights out")
        return open_sam(Path(name), backend or "onnxruntime", Options(precision=precision))
    if backend not in (None, "torch") or precision != "f32":
        raise CloudsError(
            f"`{name}` is no bundle, and only a bundle runs on other runtimes than PyTorch",
            f"make one: clouds-deploy export sam:{name} --out bundles/{name}",
        )
    import torch

    from clouds_deploy.models.sam.build import load_seeded

    return torch_sam(load_seeded(name, weights, seed), "cuda" if torch.cuda.is_available() else None)
