"""Classes of a deployed text head: names and vectors that are inputs of the graph beside the image.

The graph compares the segments that it finds with these vectors, so another file gives other classes without
an export.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.artifacts import atomic_path
from clouds_deploy.artifacts.documents import parse_document
from clouds_deploy.artifacts.names import is_regular
from clouds_deploy.bundles.arrays import read_arrays
from clouds_deploy.bundles.tensors import Array, TensorSpec
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import LARGEST, LabelSet, named_set
from clouds_deploy.models.clouds.names import SHARE, VOCABULARY

FILE = "vocabulary.npz"


@dataclass(frozen=True)
class Vocabulary:
    """Classes as a text-headed graph takes them.

    Attributes:
        names: (C,) a name for each class, in the order of the labels.
        vectors: (C, S, D) float32 unit vectors, S synonyms each; short rows repeat their first.
        share: (C,) float32, 0..1: how much frozen CLIP's own opinion counts for the class; only graphs with
            the geometric ensemble take it.
    """

    names: tuple[str, ...]
    vectors: Array
    share: Array

    def save(self, path: Path) -> None:
        """Writes an .npz file that `Vocabulary.load` reads."""
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            names = np.frombuffer(json.dumps(self.names).encode(), np.uint8)
            np.savez(file, names=names, vectors=self.vectors, share=self.share)

    @staticmethod
    def load(path: Path) -> Vocabulary:
        """Reads and checks a vocabulary file.

        Raises:
            CloudsError: There is no such file, it is no vocabulary, or what it holds does not fit together.
        """
        make = "make one with clouds_deploy.embed_classes"
        if not is_regular(path):
            raise CloudsError(f"there is no vocabulary file {path}", make)
        try:
            arrays = read_arrays(path, ("names", "vectors", "share"))
            names = parse_document(arrays["names"].tobytes(), path)
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise ValueError("its names are no list of texts")
            made = Vocabulary(tuple(names), arrays["vectors"], arrays["share"])
        except CloudsError as error:
            raise CloudsError(f"{path} is no vocabulary file: {error.message}", make) from error
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise CloudsError(f"{path} is no vocabulary file: {error}", make) from error
        made.check(str(path))
        return made

    def check(self, where: str) -> None:
        """Refuses a vocabulary that no graph could use.

        Raises:
            CloudsError: The counts differ, there are too many classes, or a number is not finite.
        """
        count, vectors, share = len(self.names), self.vectors, self.share
        again = "make it again with clouds_deploy.embed_classes"
        if vectors.ndim != 3 or vectors.dtype != np.float32 or 0 in vectors.shape:
            raise CloudsError(
                f"{where}: vectors are {vectors.dtype} {list(vectors.shape)}, not float32 [C, S, D]", again
            )
        if not count == len(vectors) == len(share) or share.shape != (count,):
            raise CloudsError(
                f"{where}: {count} names, {len(vectors)} rows of vectors, {share.size} shares", again
            )
        if count > LARGEST:
            raise CloudsError(f"{where}: {count} classes, labels tell {LARGEST} apart", "name fewer classes")
        if not np.isfinite(vectors).all() or not ((share >= 0) & (share <= 1)).all():
            raise CloudsError(f"{where}: a vector is not finite, or a share not in 0..1", again)

    def label_set(self) -> LabelSet:
        """The classes as a label set: names, and colours from the palette."""
        return named_set("vocabulary", self.names)

    def feeds(self, inputs: Sequence[TensorSpec], where: str) -> dict[str, Array]:
        """The inputs that a graph takes of it, by name.

        Raises:
            CloudsError: The graph has no vocabulary, or one of another width.
        """
        specs = {spec.name: spec for spec in inputs}
        if VOCABULARY not in specs:
            raise CloudsError(
                f"{where} has the linear head, whose classes are fixed", "export a run with model.head=text"
            )
        width = specs[VOCABULARY].shape[-1]
        if width != self.vectors.shape[-1]:
            raise CloudsError(
                f"{where} takes vectors of {width} numbers, the vocabulary's have {self.vectors.shape[-1]}",
                "embed the names with the text tower of the run that was exported",
            )
        arrays = {VOCABULARY: self.vectors, SHARE: self.share.astype(np.float32)}
        return {name: array for name, array in arrays.items() if name in specs}
