"""Images by number: of a dataset, of a folder, synthetic ones, and those that a recipe names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from clouds_deploy.config.joint import SelfTrainingConfig
from clouds_deploy.config.recipe import Recipe
from clouds_deploy.data.images import Pixels, list_images, read_image
from clouds_deploy.data.layouts import Reading, get_layout
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels import NAMES

STREETS = "streets"
VALIDATION_SEED = 1
"""Of synthetic validation scenes: the same whatever the recipe's seed, so that runs can be compared."""


class Source(Protocol):
    """Images by number."""

    def __len__(self) -> int:
        """Number of images."""

    def name(self, index: int) -> str:
        """Unique name of an image."""

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Image (H, W, 3) uint8 RGB and train ids (H, W) uint8, None without labels."""

    def labels(self, index: int) -> Pixels | None:
        """The train ids alone."""

    def files(self, index: int) -> tuple[Path, ...]:
        """Files that an image and its labels are read from; none for synthetic ones."""


class LayoutSource:
    """A split of a dataset on disk.

    Args:
        layout: Its layout's name.
        root: Its folder.
        split: Its split.
        reading: How its label files become classes; None means Cityscapes' 19.

    Raises:
        CloudsError: See `Layout.scan`.
    """

    def __init__(self, layout: str, root: Path, split: str, reading: Reading | None = None) -> None:
        self.layout, self.root, self.split = get_layout(layout), root, split
        self.plain = reading is None or reading.plain
        self.samples = self.layout.scan(root, split, reading)

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """Name of the sample."""
        return self.samples[index].name

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Reads the sample; errors as `Layout.load`."""
        return self.layout.load(self.samples[index])

    def labels(self, index: int) -> Pixels | None:
        """Reads the labels alone; errors as `Layout.read_labels`."""
        sample = self.samples[index]
        return None if sample.labels is None else self.layout.read_labels(sample.labels, sample.encoding)

    def files(self, index: int) -> tuple[Path, ...]:
        """Paths of image and labels."""
        sample = self.samples[index]
        return (sample.image,) if sample.labels is None else (sample.image, sample.labels)


class StreetsSource:
    """Synthetic street scenes.

    Args:
        domain: `game`, `imagined` or `photo`.
        seed: Scenes of different seeds are different scenes.
        count: How many.
        height: In pixels.
        width: In pixels.
        reading: How their 19 classes become those of another label set; None keeps them.

    Raises:
        CloudsError: There is no such domain.
    """

    def __init__(
        self,
        domain: str,
        seed: int,
        count: int,
        height: int,
        width: int,
        reading: Reading | None = None,
    ) -> None:
        from clouds_deploy.streets import DOMAINS

        if domain not in DOMAINS:
            raise CloudsError(f"there are no streets of domain `{domain}`", nearest(domain, DOMAINS))
        self.domain, self.seed, self.count, self.size = domain, seed, count, (height, width)
        self.reading = None if reading is None or reading.plain else reading
        self._table = None if self.reading is None else self.reading.table()

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """Domain, seed and number of the scene."""
        return f"{self.domain}_{self.seed}_{index:05d}"

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Renders the scene."""
        from clouds_deploy.streets import render

        scene = render(self.domain, self.seed, index, *self.size)
        return scene.image, scene.labels if self._table is None else self._table[scene.labels]

    def labels(self, index: int) -> Pixels | None:
        """Labels of the scene."""
        return self.load(index)[1]

    def files(self, index: int) -> tuple[Path, ...]:
        """No files: scenes are computed."""
        return ()


class ImageSource:
    """Images of a folder, without labels.

    Args:
        root: The folder; its `images` are taken where it has such a folder, as what `generate` makes does.
        count: Only this many of them, by name; None means all.

    Raises:
        CloudsError: There is no such folder, or fewer images in it.
    """

    def __init__(self, root: Path, count: int | None = None) -> None:
        if not root.is_dir():
            raise CloudsError(f"there is no folder {root}", "check the path")
        self.root = root / "images" if (root / "images").is_dir() else root
        self.paths = list_images([self.root])[:count]
        if count is not None and len(self.paths) < count:
            raise CloudsError(
                f"{self.root} holds {len(self.paths)} images, not {count}", "ask for fewer, or generate more"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """Path in the folder with the suffix as part of the name, so that two files never share one."""
        path = self.paths[index].relative_to(self.root)
        return path.with_name(f"{path.stem}_{path.suffix.lstrip('.')}").as_posix()

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Reads the image; errors as `read_image`."""
        return read_image(self.paths[index]), None

    def labels(self, index: int) -> Pixels | None:
        """No labels."""
        return None

    def files(self, index: int) -> tuple[Path, ...]:
        """Path of the image."""
        return (self.paths[index],)


class Selection:
    """Chosen images of one source or several.

    Args:
        sources: The sources.
        places: (number of the source, index of the image there) of each image.
    """

    def __init__(self, sources: Sequence[Source], places: Sequence[tuple[int, int]]) -> None:
        self._sources, self._places = sources, places

    def __len__(self) -> int:
        return len(self._places)

    def parts(self) -> list[tuple[Source, list[int]]]:
        """Sources, each with the indices of the images taken from it."""
        taken: list[list[int]] = [[] for _ in self._sources]
        for number, index in self._places:
            taken[number].append(index)
        found: list[tuple[Source, list[int]]] = []
        for source, indices in zip(self._sources, taken, strict=True):
            if isinstance(source, Selection):
                found += Selection(source._sources, [source._places[index] for index in indices]).parts()
            else:
                found.append((source, indices))
        return found

    def name(self, index: int) -> str:
        """Name of the image in its source, after the number of the source if there are several."""
        number, place = self._places[index]
        name = self._sources[number].name(place)
        return f"{number}/{name}" if len(self._sources) > 1 else name

    def load(self, index: int) -> tuple[Pixels, Pixels | None]:
        """Image and labels, loaded by the source."""
        number, place = self._places[index]
        return self._sources[number].load(place)

    def labels(self, index: int) -> Pixels | None:
        """Labels, loaded by the source."""
        number, place = self._places[index]
        return self._sources[number].labels(place)

    def files(self, index: int) -> tuple[Path, ...]:
        """Files of the image in its source."""
        number, place = self._places[index]
        return self._sources[number].files(place)


def subset(source: Source, indices: Sequence[int]) -> Selection:
    """Images of a source by their indices."""
    return Selection([source], [(0, index) for index in indices])


def select(source: Source, count: int) -> Selection:
    """Evenly spaced images of a source, at most `count` of them."""
    count = min(count, len(source))
    return subset(source, np.linspace(0, len(source) - 1, count).round().astype(int).tolist())


def train_source(recipe: Recipe) -> Source:
    """Training images of a recipe, of one dataset or several.

    Raises:
        CloudsError: The layout needs a root that the recipe does not name, or the folder does not hold it.
    """
    data, more = recipe.data, recipe.data.more
    sources: list[Source] = [_first_source(recipe)]
    for one in more:
        reading = Reading(data.classes, one.read_as or data.read_as, data.map)
        sources.append(LayoutSource(one.layout, one.root, one.split, reading))
    if data.map:
        Reading(data.classes, None, data.map).check(set().union(*map(known_classes, sources)))
    if not more:
        return sources[0]
    repeats = [1, *(one.repeat for one in more)]
    numbers = [number for number, repeat in enumerate(repeats) for _ in range(repeat)]
    return Selection(sources, [(number, i) for number in numbers for i in range(len(sources[number]))])


def _first_source(recipe: Recipe) -> Source:
    """Training images that `data.layout` names.

    Raises:
        CloudsError: The layout needs a root that the recipe does not name, or the folder does not hold it.
    """
    data = recipe.data
    if data.layout == STREETS:
        # even, where the validation seed is odd: no scene is ever in both
        size = data.height, data.width
        reading = Reading(data.classes, mapping=data.map)
        return StreetsSource(data.domain, 2 * recipe.seed, data.train_images, *size, reading)
    if data.root is None:
        raise _no_root("data.root", data.layout)
    return LayoutSource(data.layout, data.root, data.train_split, train_reading(recipe))


def train_reading(recipe: Recipe) -> Reading:
    """How the label files of a recipe's training images become its classes."""
    return Reading(recipe.data.classes, recipe.data.read_as, recipe.data.map)


def known_classes(source: Source) -> set[str]:
    """Names of the classes that a source's labels are of, before they become a recipe's."""
    if isinstance(source, StreetsSource):
        return set(NAMES)
    if isinstance(source, Selection):
        return set().union(*(known_classes(part) for part, _ in source.parts()))
    if not isinstance(source, LayoutSource):
        return set()
    encodings = {id(s.encoding): s.encoding for s in source.samples if s.encoding is not None}
    return set().union(*(encoding.known for encoding in encodings.values()))


def val_source(recipe: Recipe) -> Source:
    """Validation images of a recipe; errors as `train_source`."""
    data = recipe.data
    layout = data.val_layout or data.layout
    if layout == STREETS:
        size = data.height, data.width
        reading = Reading(data.classes, mapping=data.map)
        return StreetsSource(data.domain, VALIDATION_SEED, data.val_images or 100, *size, reading)
    root = data.val_root or data.root
    if root is None:
        raise _no_root("data.val_root" if data.val_layout else "data.root", layout)
    reading = Reading(data.classes, data.val_read_as or data.read_as, data.map)
    source = LayoutSource(layout, root, data.val_split, reading)
    return source if data.val_images is None else select(source, data.val_images)


def _no_root(key: str, layout: str) -> CloudsError:
    return CloudsError(f"layout `{layout}` needs a folder", f"name it: {key}=PATH")


def generated_source(recipe: Recipe) -> Source:
    """Generated images of a recipe's joint stage.

    Raises:
        CloudsError: None are named, or the folder does not hold them.
    """
    data, joint = recipe.data, joint_of(recipe)
    if joint.generated_root is not None:
        return ImageSource(joint.generated_root, joint.generated_images)
    if data.layout != STREETS:
        raise CloudsError(
            f"recipe `{recipe.name}` names no generated images",
            "name their folder: joint.generated_root=PATH; `generate` makes one",
        )
    count = joint.generated_images or data.train_images
    return StreetsSource("imagined", 2 * recipe.seed, count, data.height, data.width)


def joint_of(recipe: Recipe) -> SelfTrainingConfig:
    """Section on the joint stage, of a recipe that has one."""
    if recipe.joint is None:
        raise ValueError(f"recipe `{recipe.name}` has no joint stage")
    return recipe.joint
