"""Refinement as one function: images and labels in, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clouds_deploy import seeds
from clouds_deploy.config.joint import RefineConfig
from clouds_deploy.config.precision import Precision
from clouds_deploy.console import say
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.sam import Picture, open_sam
from clouds_deploy.labels import CITYSCAPES, LabelSet
from clouds_deploy.models.sam.names import RANDOM
from clouds_deploy.refinement.changes import Refined
from clouds_deploy.refinement.components import Labels
from clouds_deploy.refinement.prompts import (
    FREE,
    Choose,
    Floats,
    Pace,
    Plan,
    Promptable,
    Proposals,
    each_mask,
    propose,
)
from clouds_deploy.refinement.rules_official import best_rated, merge_official, plan_official
from clouds_deploy.refinement.rules_robust import merge_robust, most_agreeing, outlines_of, plan_robust

if TYPE_CHECKING:
    from clouds_deploy.config.recipe import Recipe


class Refiner:
    """Refines label maps with a promptable segmenter, in three steps.

    `plan` and `merge` are pure and may run in any thread; `propose` runs the model, on as many images at
    once as the caller likes. `refine` is all three. What comes out for an image depends on the image, its
    labels, its key and the settings alone, not on the images beside it.

    Args:
        sam: The promptable segmenter.
        config: The settings.
        label_set: The classes of the labels; `robust` uses their groups, and which are things or small.
    """

    def __init__(self, sam: Promptable, config: RefineConfig, label_set: LabelSet = CITYSCAPES) -> None:
        self.sam, self.config, self.label_set = sam, config, label_set
        self._outlines = outlines_of(label_set)
        if config.mode == "robust" and not label_set.reads_by_outline():
            say(
                f"label set {label_set.name} names no groups, things or small classes: masks are judged by "
                "area alone"
            )
        self._choose: Choose = best_rated if config.mode == "official" else partial(most_agreeing, sam.size)

    def describe(self) -> dict[str, Any]:
        """Facts for manifests: the SAM, the settings, and the label set if it is not the default."""
        facts = {"sam": self.sam.describe(), "refine": self.config.model_dump(mode="json")}
        return facts if self.label_set == CITYSCAPES else {**facts, "label_set": self.label_set.to_value()}

    def plan(self, labels: Labels, confidence: Floats | None = None, key: int = 0, pace: Pace = FREE) -> Plan:
        """Prompts for SAM about an image.

        Args:
            labels: (H, W) uint8 train ids or 255.
            confidence: (H, W) float32 in 0..1, the teacher's in the label; `robust` uses it.
            key: Tells the image from others of the same seed; `official` draws its points from both.
            pace: Of the work; it may stop it.
        """
        if self.config.mode == "robust":
            return plan_robust(labels, confidence, self.config.robust, pace, self._outlines)
        random = seeds.generator(self.config.seed, key)
        return plan_official(labels, self.config, random, pace, self.label_set.count)

    def propose(self, images: Sequence[Picture], plans: Sequence[Plan], pace: Pace = FREE) -> list[Proposals]:
        """Runs SAM; see `prompts.propose`."""
        return propose(self.sam, images, plans, self._choose, pace)

    def merge(
        self,
        labels: Labels,
        plan: Plan,
        proposals: Proposals,
        confidence: Floats | None = None,
        pace: Pace = FREE,
    ) -> Refined:
        """Merges the masks of an image with its labels.

        Args:
            labels: (H, W) uint8, as given to `plan`.
            plan: What `plan` gave.
            proposals: What `propose` gave.
            confidence: As given to `plan`.
            pace: Of the work; it may stop it.
        """
        masks = each_mask(self.sam, proposals, plan.size, pace)
        if self.config.mode == "official":
            return merge_official(labels, plan, masks, self.config)
        return merge_robust(
            labels, confidence, plan, masks, proposals.scores, self.config.robust, self._outlines
        )

    def refine(
        self,
        images: Sequence[Picture],
        labels: Sequence[Labels],
        confidences: Sequence[Floats | None] | None = None,
        keys: Sequence[int] | None = None,
        pace: Pace = FREE,
    ) -> list[Refined]:
        """Refines the labels of a batch.

        Args:
            images: (H, W, 3) uint8 RGB, of any sizes.
            labels: (H, W) uint8 train ids or 255, one of each image.
            confidences: (H, W) float32 in 0..1 each.
            keys: A number for each image; None numbers them from 0.
            pace: Of the work; it may stop it.

        Returns:
            The refined labels, in order.

        Raises:
            CloudsError: An image and its labels differ in size.
        """
        sure = list(confidences) if confidences is not None else [None] * len(images)
        named = list(keys) if keys is not None else list(range(len(images)))
        for image, own in zip(images, labels, strict=True):
            if image.shape[:2] != own.shape:
                raise CloudsError(
                    f"an image of {image.shape[:2]} has labels of {own.shape}",
                    "give labels of the image's own size",
                )
        plans = [self.plan(*given, pace) for given in zip(labels, sure, named, strict=True)]
        proposals = self.propose(images, plans, pace)
        given = zip(labels, plans, proposals, sure, strict=True)
        return [self.merge(*one, pace) for one in given]


@dataclass(frozen=True)
class SamRefiner:
    """Makes a refiner, in this process or in another one that this object is sent to.

    Attributes:
        sam: A SAM's name, see `models.sam.build.load_sam`, or the folder of its bundle.
        weights: Its weight file, or `random`; None for those that the package has.
        config: The settings.
        backend: Bundles only: what runs the graphs.
        precision: What the backend computes in.
        device: Where it computes; see `backends.device.resolve_device`.
        label_set: The classes of the labels.
    """

    sam: str
    weights: str | Path | None
    config: RefineConfig
    backend: str | None = None
    precision: Precision = "fp32"
    device: str = "auto"
    label_set: LabelSet = CITYSCAPES

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles with absolute paths."""
        own = None if self.weights in (None, RANDOM) else Path(str(self.weights)).absolute()
        sam = str(Path(self.sam).absolute()) if Path(self.sam).exists() else self.sam
        how = (self.backend, self.precision, self.device, self.label_set)
        return SamRefiner, (sam, own or self.weights, self.config, *how)

    def __call__(self) -> Refiner:
        """Opens the SAM."""
        sam = open_sam(
            self.sam,
            weights=self.weights,
            backend=self.backend,
            device=self.device,
            precision=self.precision,
            seed=self.config.seed,
        )
        return Refiner(sam, self.config, self.label_set)


def online_refiner(recipe: Recipe, device: Any) -> Any:
    """The function that refines pseudo-labels in self-training, or None where the recipe wants none.

    Args:
        recipe: The recipe.
        device: Where the training is computed; None leaves it to `resolve_device`.

    Raises:
        CloudsError: The settings leave pixels of two classes, which no loss can learn from; SAM cannot be
            opened, see `open_sam`.
    """
    joint = recipe.joint
    if joint is None or joint.refine is None or joint.pseudo_labels == "off":
        return None
    if joint.refine.mode == "official" and not joint.refine.remove_intersections:
        raise CloudsError(
            "training learns from label maps, which cannot hold a pixel of two classes",
            "set joint.refine.remove_intersections=true",
        )
    bundle = Path(joint.sam).exists()
    sam = open_sam(
        joint.sam,
        weights=joint.sam_weights,
        backend=joint.sam_backend if bundle else None,
        device="auto" if bundle or device is None else str(device),
        precision=joint.sam_precision,
        seed=None,
    )
    refiner = Refiner(sam, joint.refine, recipe.data.classes)
    return lambda *given: [refined.labels for refined in refiner.refine(*given)]
