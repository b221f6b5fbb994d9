"""`serve`: the verb that brings a bundle, a SAM and the rules of refinement together behind HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.bundles.packed import unpacked

if TYPE_CHECKING:
    from clouds_deploy.serving.limits import Limits


def serve(
    bundle: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    backend: str = "onnxruntime",
    name: str | None = None,
    sam: str | None = "sam_tiny",
    sam_weights: str | Path | None = None,
    batch: int = 8,
    delay_ms: float = 2.0,
    threads: int | None = None,
    limits: Limits | None = None,
    started: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Serve a bundle over HTTP until SIGTERM; see `serving`.

    Args:
        bundle: What `export` made.
        host: Where to listen; there is no access control, so mind what reaches it.
        port: 0 takes any that is free.
        backend: The runtime.
        name: What clients of the KServe protocol call the model; None takes the recipe's name.
        sam: The SAM that answers clicks and mends labels; None serves neither.
        sam_weights: Its weight file, or `random`; None for those that the package has.
        batch: Images per engine call at most.
        delay_ms: Milliseconds that the first image of a call may wait for others.
        threads: Threads per engine call; None leaves it to the runtime.
        limits: What the server takes on.
        started: Told the address once requests are taken.

    Returns:
        How many requests were `accepted`, of these `answered`, and `refused` at the door.
    """
    from clouds_deploy.serving.packages import require_packages

    require_packages()
    from clouds_deploy.serving.limits import Limits
    from clouds_deploy.serving.model import Batching
    from clouds_deploy.serving.server import Service
    from clouds_deploy.serving.server import serve as run

    bounds = limits or Limits()
    service = Service(
        unpacked(Path(bundle)),
        backend,
        name=name,
        threads=threads,
        batching=Batching(batch, delay_ms / 1e3, bounds.waiting),
        limits=bounds,
        host=host,
        port=port,
    )
    return run(service, partial(_promptable, sam, sam_weights) if sam else None, started)


def _promptable(name: str, weights: str | Path | None) -> tuple[Any, Any]:
    """Give a SAM, and what mends one image's labels with it."""
    from clouds_deploy.config.joint import RefineConfig
    from clouds_deploy.refinement.refiner import SamRefiner

    refiner = SamRefiner(str(unpacked(Path(name))), weights, RefineConfig())()
    return refiner.sam, lambda image, labels: refiner.refine([image], [labels])[0].labels
