"""Refiners by the name of a SAM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy.backends.options import Precision
from clouds_deploy.bundles.packed import unpacked
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.open_sam import find_sam
from clouds_deploy.models.sam.build import RANDOM, load_sam
from clouds_deploy.refinement.refiner import Refiner

if TYPE_CHECKING:
    from clouds_deploy.config.recipe import Recipe


@dataclass(frozen=True)
class SamRefiner:
    """Makes a refiner, in this process or in another one that this travels to.

    Attributes:
        sam: A SAM's name, see `models.sam.build.load_sam`, or the folder of its bundle.
        weights: Its weight file, or `random`; None for those that the package has.
        config: The settings.
        backend: Bundles only: the runtime.
        precision: What the runtime computes in.
    """

    sam: str
    weights: str | Path | None
    config: RefineConfig
    backend: str | None = None
    precision: Precision = "f32"

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel with paths that mean the same in another folder."""
        own = None if self.weights in (None, RANDOM) else Path(str(self.weights)).absolute()
        sam = str(Path(self.sam).absolute()) if Path(self.sam).is_dir() else self.sam
        return SamRefiner, (sam, own or self.weights, self.config, self.backend, self.precision)

    def __call__(self) -> Refiner:
        """Load SAM, onto the GPU if there is one."""
        sam = find_sam(self.sam, self.weights, self.backend, precision=self.precision, seed=self.config.seed)
        return Refiner(sam, self.config)


def online_refiner(recipe: Recipe, device: Any) -> Any:
    """Give what mends pseudo-labels in self-training, or None where the recipe wants none.

    Args:
        recipe: The recipe.
        device: Where the training is computed.

    Raises:
        CloudsError: The settings leave pixels of two classes, which no loss can learn from; SAM cannot be
            opened, see `load_sam` and `find_sam`.
    """
    joint = recipe.joint
    if joint is None or joint.refine is None or joint.pseudo_labels == "off":
        return None
    if joint.refine.mode == "official" and not joint.refine.remove_intersections:
        raise CloudsError(
            "training learns from label maps, which cannot hold a pixel of two classes",
            "set joint.refine.remove_intersections=true",
        )
    from clouds_deploy.inference.sam import torch_sam

    bundle = unpacked(Path(joint.sam))
    if bundle.is_dir():
        sam = find_sam(str(bundle), joint.sam_weights, joint.sam_backend, precision=joint.sam_precision)
    else:
        sam = torch_sam(load_sam(joint.sam, joint.sam_weights), device)
    refiner = Refiner(sam, joint.refine)
    return lambda *given: [refined.labels for refined in refiner.refine(*given)]
