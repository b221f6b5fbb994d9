"""How often each class occurs in labelled images: what rare-class sampling and class weights go by."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clouds_deploy import seeds
from clouds_deploy.artifacts import read_json, write_json
from clouds_deploy.console import progress
from clouds_deploy.data.sources import Source
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import LabelSet

FILE = "class_histogram.json"
"""Name of a histogram in a run's folder."""
_STRONGEST = 4.0
"""Limit of an automatic weight: this many times, or this fraction of, the median class's."""


@dataclass(frozen=True)
class Histogram:
    """Pixels of each class in each image.

    Attributes:
        names: The classes, by train id.
        pixels: (images, classes) int64.
    """

    names: tuple[str, ...]
    pixels: npt.NDArray[np.int64]

    def shares(self) -> npt.NDArray[np.float64]:
        """Share of each class among all labelled pixels, (classes,) float64."""
        total = self.pixels.sum(0)
        return np.asarray(total / max(int(total.sum()), 1), np.float64)

    def weights(self, given: str | Mapping[str, float]) -> npt.NDArray[np.float32]:
        """Weights of the classes in the loss.

        Args:
            given: `auto`, or weights by name; 1 for classes that are not named. Automatic ones are the root
                of the median share over the class's own, between a quarter and four times the median class's,
                scaled so that the mean over all segments (a class in an image) is 1.

        Returns:
            (classes,) float32; 1 for a class without a pixel.
        """
        if not isinstance(given, str):
            return np.array([given.get(name, 1.0) for name in self.names], np.float32)
        shares, there = self.shares(), self.pixels.any(0)
        found = np.ones(len(self.names))
        if there.any():
            roots = np.sqrt(np.median(shares[there]) / shares[there])
            found[there] = roots.clip(1 / _STRONGEST, _STRONGEST)
            segments = (self.pixels > 0).sum(0)[there]
            found[there] /= (found[there] * segments).sum() / segments.sum()
        return found.astype(np.float32)

    def save(self, path: Path) -> None:
        """Writes it as JSON: of each image its classes with their pixels."""
        rows = [{int(c): int(row[c]) for c in np.flatnonzero(row)} for row in self.pixels]
        write_json(path, {"classes": list(self.names), "images": rows})

    @staticmethod
    def load(path: Path) -> Histogram:
        """Reads what `save` wrote.

        Raises:
            CloudsError: It is damaged.
        """
        tree = read_json(path)
        try:
            names, rows = tuple(tree["classes"]), tree["images"]
            pixels = np.zeros((len(rows), len(names)), np.int64)
            for number, row in enumerate(rows):
                for index, count in row.items():
                    pixels[number, int(index)] = count
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise CloudsError(
                f"{path} is no histogram: {error}", "start the run again in another --out"
            ) from error
        return Histogram(names, pixels)


def count_classes(source: Source, label_set: LabelSet) -> Histogram:
    """Reads every label map of a source and counts; a source's order is the histogram's.

    Raises:
        CloudsError: An image has no labels, or they cannot be read.
    """

    def count(index: int) -> npt.NDArray[np.int64]:
        labels = source.labels(index)
        if labels is None:
            raise CloudsError(
                f"{source.name(index)} has no labels", "train on a split where every image has some"
            )
        return np.bincount(labels.ravel(), minlength=256)[: label_set.count]

    rows = []
    with ThreadPoolExecutor() as pool, progress("counting classes", len(source), "image") as advance:
        for row in pool.map(count, range(len(source))):
            rows.append(row)
            advance(len(rows))
    return Histogram(label_set.names, np.array(rows, np.int64).reshape(-1, label_set.count))


class RareClasses:
    """Endless images in which rare classes come often: first a class is drawn, then an image that has it.

    P(c) is proportional to exp((1 - f_c) / T), f_c the class's share of all labelled pixels (rare-class
    sampling; Hoyer, Dai and Van Gool, DAFormer, CVPR 2022, section 3.3). A function of seed and place.

    Args:
        histogram: Of the images.
        temperature: T; a high one draws all classes alike.
        seed: The run's seed.

    Raises:
        CloudsError: No image has a class.
    """

    def __init__(self, histogram: Histogram, temperature: float, seed: int) -> None:
        there = np.flatnonzero(histogram.pixels.any(0))
        if not len(there):
            raise CloudsError("no training image has a class to draw", "check the labels with `data check`")
        exponent = (1 - histogram.shares()[there]) / temperature
        shares = np.exp(exponent - exponent.max())
        self.probability = np.zeros(len(histogram.names))
        self.probability[there] = shares / shares.sum()
        self.images = [np.flatnonzero(column) for column in histogram.pixels.T]
        self.seed = seed

    def draw(self, place: int) -> tuple[int, int | None]:
        """Index of an image, and the class that it was drawn for."""
        random = seeds.generator(self.seed, seeds.RARE_CLASS, place)
        wanted = int(random.choice(len(self.probability), p=self.probability))
        return int(random.choice(self.images[wanted])), wanted

    def facts(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Probability of each class, by name, the most frequent first."""
        order = np.argsort(-self.probability, kind="stable")
        return {names[c]: round(float(self.probability[c]), 4) for c in order}
