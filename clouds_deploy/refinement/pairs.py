"""Images and the label maps that belong to them: in folders or shards, local or remote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clouds_deploy.artifacts import sha256
from clouds_deploy.artifacts.names import escaped
from clouds_deploy.data.images import read_image, read_label_ids
from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import CONFIDENCES, LABELS
from clouds_deploy.inference.sam import Picture
from clouds_deploy.jobs.results import MEMBERS
from clouds_deploy.jobs.shards import split_member
from clouds_deploy.jobs.storage import Place
from clouds_deploy.jobs.units import TAR, Unit, list_items, open_shard, split_address
from clouds_deploy.labels import CITYSCAPES, UNKNOWN_ID, LabelSet
from clouds_deploy.refinement.components import Labels
from clouds_deploy.refinement.prompts import Floats

ENDINGS = (".png", "_labelTrainIds.png")
"""What follows an image's name in its label map's: from `predict`, and as Cityscapes and the authors do."""


@dataclass(frozen=True)
class Pair:
    """An image and its labels.

    Attributes:
        name: The image's path in its folder without suffix, as `predict` names its labels.
        image: The image's file.
        labels: The label map's file; None where there is none.
        confidence: The confidences' file; None where none are asked for.
        drawn: Whether a before-and-after picture is written.
    """

    name: str
    image: Path
    labels: Path | None
    confidence: Path | None
    drawn: bool = False
    size = 1

    def told(self) -> str:
        """Its place, for messages."""
        return str(self.image)

    def identity(self) -> dict[str, str]:
        """The sha256 of each of its files."""
        files = {"image": self.image, "labels": self.labels, "confidence": self.confidence}
        return {kind: sha256(path) for kind, path in files.items() if path is not None}


@dataclass(frozen=True)
class Loaded:
    """A pair in memory.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids or 255.
        confidence: (H, W) float32 in 0..1, or None.
    """

    image: Picture
    labels: Labels
    confidence: Floats | None


def find_pairs(images: Path, labels: str | Path, confidences: str | Path | None = None) -> list[Pair]:
    """Lists the images of a local folder with their labels; videos in it are passed over.

    Args:
        images: The folder.
        labels: Folder of label PNGs of the same names, or what `predict` wrote.
        confidences: Folder of 8-bit grey PNGs of the same names, 255 where the teacher is certain; None takes
            those that `predict` wrote with the labels, if it did.

    Returns:
        The pairs; an image without labels is among them.

    Raises:
        CloudsError: A folder is not tholds no image, or not one label map that belongs to an image.
    """
    if not images.is_dir():
        raise CloudsError(f"there is no folder {images}", "check the path")
    maps, trust = label_maps(labels), confidence_maps(labels, confidences)
    items = [item for item in list_items([images]) if not item.video]
    sure: list[Path | None] = [None] * len(items)
    if trust is not None:
        sure = [trust.path(i.name) or trust.place.path(f"{trust.prefix}{i.name}.png") for i in items]
    pairs = [Pair(i.name, i.path, maps.path(i.name), own) for i, own in zip(items, sure, strict=True)]
    if not any(pair.labels for pair in pairs):
        wanted = f"{pairs[0].name}.png" if pairs else "name.png"
        raise CloudsError(
            f"{labels} holds no label map of any of the {len(pairs)} images in {images}",
            f"label maps are PNGs named like their image, such as {wanted}; `predict` makes them",
        )
    return pairs


class Maps:
    """Label maps, or confidences, of images: in shards or in a folder, local or remote.

    Args:
        address: A folder of PNGs, of shards named as the images' shards, what `predict` wrote, or one shard.
        folder: The folder in it where `predict` writes such maps.
        kinds: What may follow their key in a shard: `labels.png`, or `png` where a shard holds nothing else.
        endings: What may follow an image's name in a folder.
        asked: Whether the user named the address for these maps.

    Raises:
        CloudsError: There is no such folder.
    """

    def __init__(
        self,
        address: str | Path,
        folder: str,
        kinds: Sequence[str],
        endings: Sequence[str],
        asked: bool = True,
    ) -> None:
        self.kinds, self.endings, self.asked = frozenset(kinds), tuple(endings), asked
        self.shards: Mapping[str, str]
        if str(address).endswith(TAR):
            head, name = split_address(address)
            self.place, names = Place(head), [name]
        else:
            self.place = Place(address)
            names = self.place.files()
        stems = {n.removesuffix(TAR): n for n in names if n.endswith(TAR)}
        self.shards = {**{escaped(stem): n for stem, n in stems.items()}, **stems}
        self.prefix = f"{folder}/" if any(n.startswith(f"{folder}/") for n in names) else ""
        own = [n for n in names if n.startswith(self.prefix)]
        self.files = {**{escaped(n): n for n in own}, **{n: n for n in own}}

    def of(self, unit: Unit) -> str | None:
        """The shard with a unit's maps, or None where they are files.

        Raises:
            CloudsError: There are shards, but none for this unit.
        """
        if not self.shards:
            return None
        if unit.name not in self.shards:
            raise CloudsError(
                f"{self.place} has no shard {unit.name}{TAR} for {unit.told()}",
                "shards of labels are named like their images' shards; `predict` writes them so",
            )
        return self.shards[unit.name]

    def file(self, name: str) -> str | None:
        """The file with an image's map, if there is one."""
        found = (f"{self.prefix}{name}{ending}" for ending in self.endings)
        return next((self.files[file] for file in found if file in self.files), None)

    def path(self, name: str) -> Path | None:
        """The same file's path, for folders of this machine."""
        file = self.file(name)
        return None if file is None else self.place.path(file)

    def identity(self, unit: Unit, names: Sequence[str]) -> dict[str, str]:
        """A value for each of the maps that changes when the map does."""
        shard = self.of(unit)
        files = [shard] if shard else [file for name in names if (file := self.file(name))]
        return {self.place.told(file): self.place.identity(file) for file in files}

    def stage(self, unit: Unit, names: Sequence[str], folder: Path) -> dict[str, Path]:
        """Brings the maps of images onto this machine.

        Args:
            unit: The images' unit.
            names: The images' names.
            folder: Where to.

        Returns:
            The maps that there are, by their image's name.

        Raises:
            CloudsError: The unit's shard is missing or damaged.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shard = self.of(unit)
        if shard is None:
            for name in names:
                if (file := self.file(name)) is not None:
                    self.place.fetch(file, folder / f"{name}.png")
        else:
            own = unit.shard and unit.told() == self.place.told(shard)
            kinds = self.kinds - {"png"} if own else self.kinds  # a PNG beside an image is an image
            wanted = set(names)

            def choose(member: str) -> str | None:
                key, kind = split_member(member)
                return f"{key}.png" if kind in kinds and escaped(key) in wanted else None

            open_shard(self.place, shard, folder, choose)
        return {name: path for name in names if (path := folder / f"{name}.png").is_file()}


def label_maps(labels: str | Path) -> Maps:
    """The label maps in a folder or in shards."""
    return Maps(labels, LABELS, (MEMBERS[LABELS], "png"), ENDINGS)


def confidence_maps(labels: str | Path, confidences: str | Path | None = None) -> Maps | None:
    """The confidences at an address; None takes those that `predict` wrote with the labels, if it did."""
    asked = confidences is not None
    kinds = (MEMBERS[CONFIDENCES], *(["png"] if asked else []))
    maps = Maps(confidences or labels, CONFIDENCES, kinds, (".png",), asked)
    return maps if asked or maps.shards or maps.prefix else None


def load_pair(pair: Pair, label_set: LabelSet = CITYSCAPES) -> Loaded:
    """Reads a pair.

    Args:
        pair: Its files.
        label_set: The classes whose train ids the label map holds.

    Raises:
        CloudsError: A file is missing or damaged, the sizes differ, or an id is no train id.
    """
    if pair.labels is None:
        raise CloudsError(f"{pair.image} has no label map", f"make {pair.name}.png, or take the image away")
    image, labels = read_image(pair.image), read_label_ids(pair.labels)
    _check_size(pair.labels, labels.shape, image.shape[:2], pair.image)
    wrong = np.unique(labels[label_set.train_ids()[labels] == UNKNOWN_ID])
    if wrong.size:
        named = ", ".join(str(i) for i in wrong[:5]) + (", ..." if wrong.size > 5 else "")
        raise CloudsError(
            f"{pair.labels} holds ids that are no train ids: {named}",
            f"label maps hold 0 to {label_set.count - 1}, and 255 where there is no label; translate other "
            "ids first, or name their label set: --classes",
        )
    if pair.confidence is None:
        return Loaded(image, labels, None)
    grey = read_label_ids(pair.confidence)
    _check_size(pair.confidence, grey.shape, image.shape[:2], pair.image)
    return Loaded(image, labels, np.divide(grey, 255, dtype=np.float32))


def _check_size(path: Path, size: tuple[int, ...], wanted: tuple[int, ...], image: Path) -> None:
    if size != wanted:
        raise CloudsError(
            f"{path} is {size[1]} x {size[0]} pixels, its image {image.name} {wanted[1]} x {wanted[0]}",
            "make labels of the image's own size",
        )
