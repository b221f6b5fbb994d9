"""Units of a job: single images and videos, tar shards, or blocks of a folder's images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clouds_deploy.artifacts import sha256
from clouds_deploy.artifacts.names import escaped
from clouds_deploy.data.images import (
    IMAGE_SUFFIXES,
    PASSED_OVER,
    VIDEO_SUFFIXES,
    list_files,
    tell_passed_over,
)
from clouds_deploy.errors import CloudsError, printable
from clouds_deploy.jobs.shards import is_image, unpack
from clouds_deploy.jobs.storage import Place, is_url

TAR = ".tar"
_UNREAD = PASSED_OVER | VIDEO_SUFFIXES - {".ts"}
"""Suffixes that are counted and named where a unit is read; `.ts` is TypeScript as often as a video."""


@dataclass(frozen=True)
class Item:
    """An image or a video on this machine.

    Attributes:
        path: The file.
        name: What its results are called: a relative path without suffix, unique within a job.
    """

    path: Path
    name: str

    size = 1

    @property
    def video(self) -> bool:
        """Whether it is a video, by its suffix."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    def told(self) -> str:
        """Its place, for messages."""
        return printable(str(self.path))

    def identity(self) -> dict[str, str]:
        """Its sha256."""
        return {"video" if self.video else "image": sha256(self.path)}


def list_items(
    paths: Sequence[Path], suffixes: frozenset[str] = IMAGE_SUFFIXES | VIDEO_SUFFIXES, *, staged: bool = False
) -> list[Item]:
    """Lists images and videos, each under a name of its own.

    Args:
        paths: Files, and folders that are searched with all their subfolders.
        suffixes: Which files of a folder count.
        staged: Whether the files have names that `artifacts.names.escaped` gave already.

    Raises:
        CloudsError: A path is not there, or a folder holds no such file.
    """
    items: dict[str, Item] = {}
    for root in paths:
        for path in list_files([root], suffixes):
            inside = path.relative_to(root) if root.is_dir() else Path(path.name)
            name = inside.with_suffix("").as_posix()
            name = name if staged else escaped(name)
            if name in items:
                name = f"{name}_{path.suffix.lstrip('.')}"
            base, number = name, 2
            while name in items:
                name, number = f"{base}-{number}", number + 1
            items[name] = Item(path, name)
    return list(items.values())


@dataclass(frozen=True)
class Unit:
    """Images that are processed, and after a kill processed again, as a whole.

    Attributes:
        name: Name of its shard of results and of its record: the shard's own name, or the block's number.
        place: Where its files are.
        files: One shard, or images.
        shard: Whether it is a shard.
    """

    name: str
    place: Place
    files: tuple[str, ...]
    shard: bool

    @property
    def size(self) -> int:
        """Number of its images; 1 for a shard."""
        return len(self.files)

    def told(self) -> str:
        """Its place, for messages."""
        return self.place.told(self.files[0]) if self.shard else self.place.told()

    def identity(self) -> dict[str, str]:
        """A value for each of its files that changes when the file does; see `Place.identity`."""
        return {self.place.told(name): self.place.identity(name) for name in self.files}

    def stage(self, folder: Path) -> list[Item]:
        """Brings its images onto this machine, under the names they have in the shard or folder.

        Raises:
            CloudsError: A file is gone, or the shard is damaged or holds no image.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.shard:
            over: list[str] = []

            def choose(member: str) -> str | None:
                if is_unread(member):
                    over.append(f"{self.told()}/{member}")
                return member if is_image(member) else None

            found = open_shard(self.place, self.files[0], folder, choose)
            tell_passed_over(over)
            if not found:
                raise CloudsError(
                    f"{self.told()} holds no images", "a shard holds them as key.jpg, key.png and so on"
                )
            return list_items([folder], staged=True)
        for name in self.files:
            target = folder / escaped(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if self.place.local:
                os.symlink(self.place.path(name).resolve(), target)
            else:
                self.place.fetch(name, target)
        return list_items([folder], staged=True)


@dataclass(frozen=True)
class Span:
    """Consecutive images of a dataset, or of images that are to be generated.

    Attributes:
        name: See `Unit`.
        numbers: Which images.
        part: Name of the dataset.
    """

    name: str
    numbers: range
    part: str = ""

    @property
    def size(self) -> int:
        """Number of its images."""
        return len(self.numbers)

    def told(self) -> str:
        """Which images, for messages."""
        return f"{self.part and self.part + ', '}images {self.numbers[0]} to {self.numbers[-1]}"


def cut(count: int, size: int, part: str = "") -> list[Span]:
    """Cuts a number of images into spans of `size`."""
    starts = range(0, count, size)
    return [Span(f"{i:06d}", range(at, min(at + size, count)), part) for i, at in enumerate(starts)]


def open_shard(place: Place, name: str, folder: Path, choose: Callable[[str], str | None]) -> list[str]:
    """Unpacks a shard, fetched first if it is remote; see `shards.unpack`."""
    if place.local:
        return unpack(place.path(name), place.told(name), folder, choose)
    fetched = folder.parent / f"{folder.name}{TAR}"
    try:
        place.fetch(name, fetched)
        return unpack(fetched, place.told(name), folder, choose)
    finally:
        fetched.unlink(missing_ok=True)


def split_address(path: str | Path) -> tuple[str, str]:
    """Folder and name of a file."""
    head, _, tail = str(path).rpartition("/")
    return (head or ("/" if str(path).startswith("/") else "."), tail)


def holds_shards(path: str | Path) -> bool:
    """Whether a path of this machine is a shard, or a folder with one in it."""
    own = Path(path)
    if own.is_dir():
        return any(p.suffix == TAR and not p.name.startswith(".") for p in own.iterdir())
    return own.suffix == TAR


def is_spread(paths: Sequence[str | Path], out: str | Path) -> bool:
    """Whether a job has to go unit by unit: shards or remote addresses are read or written."""
    return is_url(out) or any(is_url(path) or holds_shards(path) for path in paths)


def is_unread(name: str) -> bool:
    """Whether a file of a unit is a picture that is not read, or a video, by its suffix."""
    path = PurePosixPath(name)
    return path.suffix.lower() in _UNREAD and not path.name.startswith(".")


def find_units(paths: Sequence[str | Path], size: int, over: list[str] | None = None) -> list[Unit]:
    """Cuts shards and folders into units.

    Args:
        paths: Shards, and folders of shards or of images; here or at an address.
        size: Images in a block of a folder.
        over: Filled with the files of folders that are of no format that is read (videos neither); those of a
            shard are told when it is opened.

    Returns:
        The units, each under a name of its own.

    Raises:
        CloudsError: A path is not there or holds nothing, or two shards have the same name.
    """
    units: list[Unit] = []
    for path in paths:
        if str(path).endswith(TAR):
            place, name = Place(split_address(path)[0]), split_address(path)[1]
            if not place.is_file(name):
                raise CloudsError(f"there is no shard {path}", "check the path")
            units.append(Unit(escaped(name.removesuffix(TAR)), place, (name,), True))
            continue
        place = Place(path)
        if place.is_file():
            folder, name = split_address(path)
            units.append(Unit(escaped(PurePosixPath(name).stem), Place(folder), (name,), False))
            continue
        names = place.files()
        if over is not None:
            over += [place.told(name) for name in names if is_unread(name)]
        shards = [name for name in names if name.endswith(TAR)]
        units += [Unit(escaped(name.removesuffix(TAR)), place, (name,), True) for name in shards]
        images = [n for n in names if PurePosixPath(n).suffix.lower() in IMAGE_SUFFIXES]
        if shards and images:
            raise CloudsError(f"{path} holds shards and images", "give the one or the other")
        if not shards and not images:
            raise CloudsError(f"{path} holds no shards and no images", "give .tar files, or a folder")
        before = sum(not unit.shard for unit in units)
        blocks = [images[at : at + size] for at in range(0, len(images), size)]
        units += [Unit(f"{before + i:06d}", place, tuple(b), False) for i, b in enumerate(blocks)]
    counts = Counter(unit.name for unit in units)
    twice = {name for name, count in counts.items() if count > 1}
    if twice:
        raise CloudsError(
            f"{len(twice)} names of shards occur twice, `{min(twice)}` first",
            "rename them, or run in two parts",
        )
    return units
