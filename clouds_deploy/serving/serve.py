"""The verb `serve`: a bundle, a SAM and the rules of refinement behind HTTP."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.config.section import make_options
from clouds_deploy.config.serve import DEFAULT_SAM, ServeOptions
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError, install, installed
from clouds_deploy.serving.limits import Limits, Refusal

if TYPE_CHECKING:
    from clouds_deploy.labels import LabelSet
    from clouds_deploy.refinement.refiner import Refiner
    from clouds_deploy.serving.promptable import PointSam, Refine
    from clouds_deploy.serving.turns import Turn

PACKAGES = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}
"""The packages of the extra `[serve]`: what each module is called on PyPI."""


def serve(
    bundle: str | Path,
    *,
    limits: Limits | None = None,
    started: Callable[[str], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Serves a bundle over HTTP until SIGTERM or SIGINT; answers what was accepted, then returns.

    Args:
        bundle: A segmenter's bundle.
        limits: Bounds of requests; see `clouds_deploy.serving.limits.Limits`.
        started: Called with the address once requests are taken.
        options: See `clouds_deploy.config.serve.ServeOptions`.

    Returns:
        How many requests were `accepted`, of these `answered`, and `refused`.

    Raises:
        CloudsError: A package is missing; the port is taken; the bundle or the SAM cannot be opened.
    """
    chosen = make_options(ServeOptions, options)
    # Starlette misses python-multipart only when a form comes in: all are checked before anything starts
    missing = [name for module, name in PACKAGES.items() if not installed(module)]
    if missing:
        raise CloudsError(f"serving needs {', '.join(missing)}", install("serve"))
    from clouds_deploy.serving.server import run_server

    bounds = limits or Limits()
    return run_server(unpacked(Path(bundle)), chosen, bounds, _sam_opener(chosen, bounds), started)


def _sam_opener(
    options: ServeOptions, limits: Limits
) -> Callable[[LabelSet], tuple[PointSam, Refine]] | None:
    """What opens the SAM; None where there is to be none."""
    if options.sam is None:
        return None
    if options.sam == DEFAULT_SAM and not installed("torch"):
        warn(
            f"no SAM is served: {DEFAULT_SAM} by its name needs PyTorch (pass a SAM's bundle by --sam, or "
            f"--sam none); {install('train')}"
        )
        return None
    return partial(_open_sam, options.sam, options.sam_weights, options.device, limits)


def _open_sam(
    name: str, weights: str | Path | None, device: str, limits: Limits, label_set: LabelSet
) -> tuple[PointSam, Refine]:
    """A SAM, and what refines one image's labels with it."""
    from clouds_deploy.config.joint import RefineConfig
    from clouds_deploy.refinement.refiner import SamRefiner

    refiner = SamRefiner(name, weights, RefineConfig(), device=device, label_set=label_set)()
    return refiner.sam, bounded_refine(refiner, limits)


def bounded_refine(refiner: Refiner, limits: Limits) -> Refine:
    """What refines one image's labels within a server's bounds, and stops when its request has ended.

    Args:
        refiner: Does it.
        limits: `prompts` and `prompt_pixels`.
    """
    from clouds_deploy.refinement.prompts import Pace

    class Bounded(Pace):
        def __init__(self, turn: Turn) -> None:
            self.turn = turn
            self.prompts = getattr(refiner.sam, "prompt_batch", self.prompts)  # one call of its decoder

        def admit(self, prompts: int, pixels: int) -> None:
            most = min(limits.prompts, limits.prompt_pixels // pixels)
            if prompts > most:
                raise Refusal(
                    413,
                    f"`labels` has {prompts} components that SAM would be asked about",
                    f"send labels with at most {most} at this size, or a smaller image",
                )

        def pause(self) -> None:
            self.turn.pause()

    return lambda image, labels, turn: refiner.refine([image], [labels], pace=Bounded(turn))[0].labels
