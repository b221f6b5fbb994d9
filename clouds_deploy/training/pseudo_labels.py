"""Labels for generated images: the teacher's, mended by a refiner that the caller hands in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clouds_deploy.artifacts import read_json, write_json
from clouds_deploy.console import progress
from clouds_deploy.data.dataset import Source
from clouds_deploy.data.images import Pixels, read_label_ids, write_png
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CLASSES, IGNORE
from clouds_deploy.training.processes import Processes
from clouds_deploy.training.teacher import Teacher

Floats = npt.NDArray[np.float32]
Refine = Callable[[Sequence[Pixels], Sequence[Pixels], Sequence[Floats], Sequence[int]], list[Pixels]]
"""(images, the teacher's labels, its confidences, a number for each) -> label maps with 255 for no label."""

FOLDER = "pseudo_labels"
_WHOLE = "whole.json"
_BATCH = 8
_SURVEYED = 200
"""Images that show how sure the teacher is of each class."""


class Labeler:
    """The teacher and its refiner.

    Args:
        teacher: Who labels.
        refine: Mends the labels; None takes them as they are.
        device: Where the teacher computes.
        precision: `fp32`, or `bf16` autocast.

    Attributes:
        least: (256,) the mean confidence that keeps a class in an image's labels, by train id.
    """

    def __init__(
        self, teacher: Teacher, refine: Refine | None, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.teacher, self.refine, self.device, self.half = teacher, refine, device, precision == "bf16"
        self.least = np.full(IGNORE + 1, teacher.config.min_confidence, np.float32)

    def __call__(self, clean: Tensor, keys: Sequence[int]) -> Tensor:
        """Label images.

        Args:
            clean: (G, 3, H, W) uint8 RGB, as the teacher should see them.
            keys: A number for each, which a refiner that draws points draws them from.

        Returns:
            (G, H, W) uint8 train ids on the CPU, 255 where there is no label.
        """
        if not len(clean):
            return clean[:, 0].cpu()
        labels, trust = self._ask(clean)
        if self.refine is None and not self.least.any():
            return labels
        maps, sure = list(labels.numpy()), list(trust.numpy())
        maps = [leave_out(one, own, self.least) for one, own in zip(maps, sure, strict=True)]
        if self.refine is not None:
            images = clean.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            maps = self.refine(list(images), maps, sure, list(keys))
        return torch.from_numpy(np.stack(maps))

    def survey(self, source: Source) -> None:
        """Set `least` by `joint.min_share`, from the first images of a source; without it, do nothing."""
        config = self.teacher.config
        if not config.min_share:
            return
        seen: list[list[float]] = [[] for _ in self.least]
        count = min(len(source), _SURVEYED)
        with progress("how sure of each class", count, "image") as advance:
            for at in range(0, count, _BATCH):
                images = [source.load(i)[0] for i in range(at, min(at + _BATCH, count))]
                for batch in map(_stack, ([images[i] for i in group] for group in _of_one_size(images))):
                    for labels, trust in zip(*self._ask(batch), strict=True):
                        pixels, total = _by_class(labels.numpy(), trust.numpy())
                        for one in np.flatnonzero(pixels).tolist():
                            seen[one].append(float(total[one] / pixels[one]))
                advance(min(at + _BATCH, count))
        for one, means in enumerate(seen):
            if means:
                surest = np.quantile(means, 1 - config.min_share)
                self.least[one] = min(config.min_confidence, surest)

    def _ask(self, clean: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            labels, trust = self.teacher.label(clean.to(self.device, non_blocking=True))
        return labels.cpu(), trust.cpu()


def leave_out(labels: Pixels, confidence: Floats, least: float | Floats) -> Pixels:
    """Leave out the classes of an image that the teacher is not sure of.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32, 0..1.
        least: Mean confidence over a class's pixels that keeps it, 0..1; one number, or (256,) by train id.

    Returns:
        (H, W) uint8, 255 where a class was left out.
    """
    count, total = _by_class(labels, confidence)
    kept = np.arange(IGNORE + 1, dtype=np.uint8)
    kept[total < least * count] = IGNORE
    return np.asarray(kept[labels], np.uint8)


def _by_class(labels: Pixels, confidence: Floats) -> tuple[Any, Any]:
    """Give the pixels of each train id, and the sum of their confidences, (256,) both."""
    flat = labels.ravel()
    count = np.bincount(flat, minlength=IGNORE + 1)
    return count, np.bincount(flat, confidence.ravel().astype(np.float64), minlength=IGNORE + 1)


class LabelStore:
    """Pseudo-labels of all generated images on disk, one folder for each time they were made.

    Args:
        run: The run's directory.
        step: The step that they were made before.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.folder = run / FOLDER / f"step_{step:08d}"

    def fill(self, source: Source, labeler: Labeler, processes: Processes) -> None:
        """Label every image of a source that has no file yet; a killed call goes on where it was.

        Images go through the teacher in the same groups whatever was done before and whichever process does
        it, because a group can decide a pixel's last bit.

        Raises:
            CloudsError: An image cannot be read, or the disk is full.
        """
        if not (self.folder / _WHOLE).is_file():
            labeler.survey(source)
            groups = [range(at, min(at + _BATCH, len(source))) for at in range(0, len(source), _BATCH)]
            with progress("pseudo-labels", len(source), "image") as advance:
                for group in groups[processes.rank :: processes.count]:
                    if not all(self._path(source.name(i)).is_file() for i in group):
                        self._label(source, group, labeler)
                    advance(group.stop)
        processes.wait()
        if processes.first and not (self.folder / _WHOLE).is_file():
            shares = [float((self.read(source.name(i)) == IGNORE).mean()) for i in range(len(source))]
            least = {c.name: round(float(labeler.least[i]), 4) for i, c in enumerate(CLASSES)}
            facts = {"images": len(source), "unlabelled": float(np.mean(shares)), "least_confidence": least}
            write_json(self.folder / _WHOLE, facts)
        processes.wait()

    def _label(self, source: Source, chosen: Sequence[int], labeler: Labeler) -> None:
        images = [source.load(i)[0] for i in chosen]
        for group in _of_one_size(images):
            batch = _stack([images[i] for i in group])
            for i, labels in zip(group, labeler(batch, [chosen[i] for i in group]), strict=True):
                write_png(self._path(source.name(chosen[i])), labels.numpy())

    def check(self) -> None:
        """Refuse a folder that is not whole.

        Raises:
            CloudsError: It is not; the teacher that made it is gone.
        """
        if not (self.folder / _WHOLE).is_file():
            raise CloudsError(f"the pseudo-labels in {self.folder} are incomplete", "start the run again")
        read_json(self.folder / _WHOLE)

    def read(self, name: str) -> Pixels:
        """Read the labels of an image, (H, W) uint8; errors as `read_label_ids`."""
        return read_label_ids(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.png"


def _stack(images: Sequence[Pixels]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


def _of_one_size(images: Sequence[Pixels]) -> list[list[int]]:
    """Group the images of equal size, so that each group can be stacked."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    return list(groups.values())
