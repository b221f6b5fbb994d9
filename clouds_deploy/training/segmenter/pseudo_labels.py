"""Labels for generated images: the teacher's, mended by a refiner that the caller hands in."""

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
"""(images, the teacher's labels, its confidences, a number for each) -> label maps with 255 for no label."""

FOLDER = "pseudo_labels"
_WHOLE = "whole.json"
_BATCH = 8


class Labeler:
    """The teacher and its refiner.

    Args:
        teacher: Who labels.
        refine: Mends the labels; None takes them as they are.
        device: Where the teacher computes.
        precision: `fp32`, or `bf16` autocast.
    """

    def __init__(
        self, teacher: Teacher, refine: Refine | None, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.teacher, self.refine, self.device, self.half = teacher, refine, device, precision == "bf16"

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
    """Leave out the classes of an image that the teacher is not sure of.

    Args:
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32, 0..1.
        least: Mean confidence over a class's pixels that keeps it, 0..1.

    Returns:
        (H, W) uint8, 255 where a class was left out.
    """
    count = np.bincount(labels.ravel(), minlength=IGNORE + 1)
    total = np.bincount(labels.ravel(), confidence.ravel().astype(np.float64), minlength=IGNORE + 1)
    kept = np.arange(IGNORE + 1, dtype=np.uint8)
    kept[total < least * count] = IGNORE
    return np.asarray(kept[labels], np.uint8)


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


def _of_one_size(images: Sequence[Pixels]) -> list[list[int]]:
    """Group the images of equal size, so that each group can be stacked."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        groups.setdefault(image.shape, []).append(index)
    return list(groups.values())
