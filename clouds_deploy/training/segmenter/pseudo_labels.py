"""Labels for generated images: the teacher's, refined by a function that the caller passes in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from clouds_deploy.artifacts import read_json, write_json
from clouds_deploy.console import progress
from clouds_deploy.data.images import Pixels, read_label_ids, write_png
from clouds_deploy.data.sources import Source
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import IGNORE
from clouds_deploy.training.processes import Processes
from clouds_deploy.training.segmenter.teacher import Teacher

Floats = npt.NDArray[np.float32]
Refine = Callable[[Sequence[Pixels], Sequence[Pixels], Sequence[Floats], Sequence[int]], list[Pixels]]
"""(images, the teacher's labels, its confidences, a number for each) -> label maps, 255 for no label."""

FOLDER = "pseudo_labels"
_WHOLE = "whole.json"
_BATCH = 8


class Labeler:
    """A teacher with a refiner.

    Args:
        teacher: Labels images.
        refine: Refines the labels; None takes them as they are.
        device: Device of the teacher.
        precision: `fp32`, or `bf16` autocast.
    """

    def __init__(
        self, teacher: Teacher, refine: Refine | None, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.teacher, self.refine, self.device, self.half = teacher, refine, device, precision == "bf16"

    def __call__(self, clean: Tensor, keys: Sequence[int]) -> Tensor:
        """Labels images.

        Args:
            clean: (G, 3, H, W) uint8 RGB, without colour jitter.
            keys: A number for each image, the seed of a refiner's random points.

        Returns:
            (G, H, W) uint8 train ids on the CPU, 255 for no label.
        """
        if not len(clean):
            return clean[:, 0].cpu()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            labels, trust = self.teacher.label(clean.to(self.device, non_blocking=True))
        least = self.teacher.config.min_confidence
        if self.refine is None and least == 0:
            return labels.cpu()
        maps, sure = list(labels.cpu().numpy()), list(trust.cpu().numpy())
        if least > 0:
            maps = [leave_out(one, own, least) for one, own in zip(maps, sure, strict=True)]
        if self.refine is not None:
            images = clean.permute(0, 2, 3, 1).contiguous().cpu().numpy()
            maps = self.refine(list(images), maps, sure, list(keys))
        return torch.from_numpy(np.stack(maps))


def leave_out(labels: Pixels, confidence: Floats, least: float) -> Pixels:
    """Removes the classes of an image that the teacher is not confident in.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32, 0..1.
        least: Minimum mean confidence over a class's pixels, 0..1.

    Returns:
        (H, W) uint8, 255 where a class was removed.
    """
    count = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    total = np.bincount(labels.ravel(), confidence.ravel().astype(np.float64), minlength=IGNORE + 1)
    kept = np.arange(IGNORE + 1, dtype=np.uint8)
    kept[total < least * count] = IGNORE
    return np.asarray(kept[labels], np.uint8)


class LabelStore:
    """Pseudo-labels of all generated images on disk, one folder for each time that they are made.

    Args:
        run: The run's directory.
        step: Step before which they are made.
    """

    def __init__(self, run: Path, step: int) -> None:
        self.folder = run / FOLDER / f"step_{step:08d}"

    def fill(self, source: Source, labeler: Labeler, processes: Processes) -> None:
        """Labels every image of a source that has no file yet; a killed call is continued by the next.

        Images are labelled in the same groups whatever was done before and whichever process does it,
        because a pixel's last bit can depend on the group.

        Raises:
            CloudsError: An image cannot be read, or the disk is full.
        """
        if not (self.folder / _WHOLE).is_file():
            groups = [range(at, min(at + _BATCH, len(source))) for at in range(0, len(source), _BATCH)]
            with progress("pseudo-labels", len(source), "image") as advance:
                for group in groups[processes.rank :: processes.count]:
                    if not all(self._path(source.name(i)).is_file() for i in group):
                        self._label(source, group, labeler)
                    advance(group.stop)
        processes.wait()
        if processes.first and not (self.folder / _WHOLE).is_file():
            shares = [float((self.read(source.name(i)) == IGNORE).mean()) for i in range(len(source))]
            write_json(self.folder / _WHOLE, {"images": len(source), "unlabelled": float(np.mean(shares))})
        processes.wait()

    def _label(self, source: Source, chosen: Sequence[int], labeler: Labeler) -> None:
        images = [source.load(i)[0] for i in chosen]
        for group in _of_one_size(images):
            batch = torch.from_numpy(np.stack([images[i] for i in group])).permute(0, 3, 1, 2)
            for i, labels in zip(group, labeler(batch, [chosen[i] for i in group]), strict=True):
                write_png(self._path(source.name(chosen[i])), labels.numpy())

    def check(self) -> None:
        """Checks that all labels are there.

        Raises:
            CloudsError: Some are missing; the teacher that made the others does not exist any more.
        """
        if not (self.folder / _WHOLE).is_file():
            raise CloudsError(f"the pseudo-labels in {self.folder} are incomplete", "start the run again")
        read_json(self.folder / _WHOLE)

    def read(self, name: str) -> Pixels:
        """Labels of an image, (H, W) uint8; errors as `read_label_ids`."""
        return read_label_ids(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.png"


def _of_one_size(images: Sequence[Pixels]) -> list[list[int]]:
    """Numbers of the images in groups of equal size, which can be stacked."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    return list(groups.values())
