"""Clips: frames in the order of time, from data sets, folders, video files and synthetic streets.

Clip data sets are arrangements like those of `data.layouts`, and read by the same code; what is added is
which images make a clip. Cityscapes' labels exist for one frame in thirty, so most frames have none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clouds_deploy.bounded import load_json
from clouds_deploy.data.images import Pixels, list_images, read_red_ids
from clouds_deploy.data.layouts import Layout, Sample
from clouds_deploy.data.layouts.encodings import Encoding, table_of, train_ids
from clouds_deploy.data.layouts.layout import LABEL_IDS, TRAIN_IDS, first_file
from clouds_deploy.data.layouts.tree import (
    ONE_SET,
    encoding_by_name,
    images_inside,
    label_maps_inside,
    subfolders,
)
from clouds_deploy.errors import CloudsError, nearest
from clouds_deploy.labels import IGNORE, NAMES, UNKNOWN_ID

VIDEOS = frozenset({".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"})


@dataclass(frozen=True)
class ClipFrame:
    """One frame.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 train ids, None where the frame has none.
        flow: (H, W, 2) float32 true motion to the next frame in pixels; None where it isn't known.
        occluded: (H, W) bool, where the flow is of no use; None without flow.
    """

    image: Pixels
    labels: Pixels | None
    flow: npt.NDArray[np.float32] | None = None
    occluded: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Clip:
    """Frames in the order of time.

    Attributes:
        name: Unique in its data set.
        frames: Opens the clip: its frames, read one by one.
        count: How many there are; None of a video file.
    """

    name: str
    frames: Callable[[], Iterator[ClipFrame]]
    count: int | None

    def __iter__(self) -> Iterator[ClipFrame]:
        """Reads the clip from its first frame."""
        return self.frames()


def street_clips(domain: str, seed: int, clips: int, frames: int, size: tuple[int, int]) -> list[Clip]:
    """Synthetic clips with true flow; see `clouds_deploy.streets.Clip`.

    Args:
        domain: `game`, `imagined` or `photo`.
        seed: Clips of different seeds are different clips.
        clips: How many.
        frames: In each.
        size: Height and width.

    Raises:
        CloudsError: There is no such domain.
    """
    from clouds_deploy.streets import DOMAINS
    from clouds_deploy.streets import Clip as Street

    if domain not in DOMAINS:
        raise CloudsError(f"there are no streets of domain `{domain}`", nearest(domain, DOMAINS))

    def opened(index: int) -> Iterator[ClipFrame]:
        for frame in Street(domain, seed, index, *size).frames(frames):
            yield ClipFrame(frame.image, frame.labels, frame.flow, frame.occluded)

    return [
        Clip(f"{domain}_{seed}_{index:05d}", lambda index=index: opened(index), frames)  # type: ignore[misc]
        for index in range(clips)
    ]


def list_clips(name: str, root: Path, split: str) -> list[Clip]:
    """Clips of a data set.

    Args:
        name: One of `CLIPS`, or `video`: a video file, or a folder of them.
        root: Its folder, or the file.
        split: Its split.

    Returns:
        The clips, by name.

    Raises:
        CloudsError: There is no such arrangement or split, or the folder is none of it.
    """
    if name == "video":
        return _videos(root)
    if name not in CLIPS:
        raise CloudsError(f"there is no clip layout `{name}`", nearest(name, [*CLIPS, "video"]))
    layout, number = CLIPS[name]
    found = []
    for folder, images in groupby(layout.scan(root, split), lambda sample: sample.image.parent):
        for part in _unbroken(list(images), number):
            title = part[0].name if number else folder.relative_to(root).as_posix()
            found.append(Clip(title, lambda part=part: _read(layout, part), len(part)))  # type: ignore[misc]
    return found


def detect_clips(root: Path) -> str:
    """Name of the one arrangement that a folder or a file has.

    Raises:
        CloudsError: It has none, or several.
    """
    if root.suffix.lower() in VIDEOS:
        return "video"
    found = [name for name, (layout, _) in CLIPS.items() if root.is_dir() and layout.list_splits(root)]
    if len(found) > 1 and "folder" in found:
        found.remove("folder")
    if len(found) == 1:
        return found[0]
    looked_for = "; ".join(f"{name}: {layout.expects}" for name, (layout, _) in CLIPS.items())
    if found:
        raise CloudsError(f"{root} can be read as {' and '.join(found)}", "say which: --data LAYOUT:FOLDER")
    if root.is_dir() and any(path.suffix.lower() in VIDEOS for path in root.iterdir()):
        return "video"
    raise CloudsError(f"{root} holds no clips", f"looked for video files; {looked_for}")


def _read(layout: Layout, samples: list[Sample]) -> Iterator[ClipFrame]:
    for sample in samples:
        yield ClipFrame(*layout.load(sample))


def _unbroken(samples: list[Sample], number: re.Pattern[str] | None) -> Iterator[list[Sample]]:
    """Runs of samples whose numbers follow each other; all of them where there is no number."""
    part: list[Sample] = []
    before: tuple[str, int] | None = None
    for sample in samples:
        here = None
        if number is not None and (found := number.fullmatch(sample.image.stem)):
            here = found[1], int(found[2])
        if part and number is not None and (before is None or here != (before[0], before[1] + 1)):
            yield part
            part = []
        part.append(sample)
        before = here
    if part:
        yield part


def _videos(root: Path) -> list[Clip]:
    """Video files; labels are those in a folder of the video's name beside it, 000000.png and so on."""
    paths = [root] if root.is_file() else sorted(p for p in root.iterdir() if p.suffix.lower() in VIDEOS)
    if not paths:
        raise CloudsError(f"{root} holds no video", "give a video file, or a folder of them")

    def opened(path: Path) -> Iterator[ClipFrame]:
        from clouds_deploy.data.video import read_frames

        folder = path.with_suffix("")
        for number, image in enumerate(read_frames(path)):
            labels = folder / f"{number:06d}.png"
            found = CLIPS["folder"][0].read_labels(labels, train_ids()) if labels.is_file() else None
            if found is not None and found.shape != image.shape[:2]:
                raise CloudsError(
                    f"{labels} has not the size of its video's frames", "label the frames again"
                )
            yield ClipFrame(image, found)

    return [Clip(path.stem, lambda path=path: opened(path), None) for path in paths]  # type: ignore[misc]


def take(clip: Clip, count: int | None) -> Iterator[ClipFrame]:
    """The first frames of a clip; all for None."""
    return islice(iter(clip), count)


# Cityscapes: leftImg8bit_sequence_trainvaltest.zip, 30 frames around each labelled one

_SEQUENCE = "leftImg8bit_sequence"
_CITYSCAPES_NUMBER = re.compile(r"(.+)_(\d{6})_leftImg8bit")


def _cityscapes_samples(root: Path, split: str) -> list[Sample]:
    found = []
    for image in images_inside(root / _SEQUENCE / split):
        stem = image.stem.removesuffix("_leftImg8bit")
        folder = root / "gtFine" / split / image.parent.name
        labels = first_file([folder / f"{stem}_gtFine{s}.png" for s in (TRAIN_IDS, LABEL_IDS)])
        found.append(Sample(stem, image, labels))
    return found


# VSPW (Miao et al., CVPR 2021): VSPW_480p, or VSPW

_VSPW = {
    "wall": "wall", "handrail_or_fence": "fence", "pole": "pole", "ground": "terrain", "grass": "terrain",
    "road": "road", "crosswalk": "road", "building": "building", "house": "building", "sky": "sky",
    "car": "car", "bus": "bus", "truck": "truck", "bicycle": "bicycle", "motorcycle": "motorcycle",
    "traffic_light": "traffic light", "person": "person", "tree": "vegetation", "other_plant": "vegetation",
    "train": "train",
}  # fmt: skip
"""VSPW's names of Cityscapes' classes; its other classes, and 0 and 255, do not count."""
_VSPW_NAMES = "label_num_dic_final.json"


def _vspw_splits(root: Path) -> tuple[str, ...]:
    if not (root / "data").is_dir() or not (root / _VSPW_NAMES).is_file():
        return ()
    return tuple(s for s in ("train", "val", "test") if (root / f"{s}.txt").is_file())


def _vspw_samples(root: Path, split: str) -> list[Sample]:
    found = []
    for video in (root / f"{split}.txt").read_text().split():
        for image in images_inside(root / "data" / video / "origin"):
            labels = root / "data" / video / "mask" / f"{image.stem}.png"
            found.append(Sample(f"{video}/{image.stem}", image, first_file([labels])))
    return found


def _vspw_labels(root: Path, split: str) -> list[Path]:
    return [s.labels for s in _vspw_samples(root, split) if s.labels is not None]


def _vspw_encoding(path: Path) -> Encoding:
    return _vspw_ids(path.parents[3] / _VSPW_NAMES)


@lru_cache(maxsize=8)
def _vspw_ids(path: Path) -> Encoding:
    try:
        numbers = {str(name): int(number) for name, number in load_json(path.read_text()).items()}
    except (OSError, ValueError, AttributeError) as error:
        raise CloudsError(f"{path} does not name VSPW's classes: {error}", "unpack VSPW again") from error
    table = np.full(256, UNKNOWN_ID, np.int16)
    table[[*(n for n in numbers.values() if 0 <= n < 256), 0, 255]] = IGNORE
    for name, target in _VSPW.items():
        if name in numbers:
            table[numbers[name]] = NAMES.index(target)
    return Encoding("VSPW ids", f"as {path.name} says", table)


# VIPER (Richter et al., ICCV 2017)


@lru_cache(maxsize=1)
def _viper_ids() -> Encoding:
    classes = {
        2: "sky", 3: "road", 4: "sidewalk", 6: "terrain", 7: "vegetation", 8: "vegetation", 9: "building",
        11: "fence", 13: "traffic light", 14: "traffic sign", 20: "person", 22: "bicycle", 23: "motorcycle",
        24: "car", 25: "car", 26: "bus", 27: "truck", 29: "train",
    }  # fmt: skip
    return Encoding("VIPER ids", "0..31", table_of(classes, 32))


def _viper_splits(root: Path) -> tuple[str, ...]:
    return tuple(s for s in subfolders(root) if (root / s / "img").is_dir() and (root / s / "cls").is_dir())


def _viper_samples(root: Path, split: str) -> list[Sample]:
    found = []
    for image in images_inside(root / split / "img"):
        labels = root / split / "cls" / image.parent.name / f"{image.stem}.png"
        found.append(Sample(image.stem, image, first_file([labels])))
    return found


# KITTI: tracking and STEP (training/image_02/0000), odometry (sequences/00/image_2), raw (image_02/data)

_KITTI_CAMERAS = ("image_02", "image_2")


def _kitti_images(root: Path, split: str) -> list[Path]:
    folders = {"train": ("training", "sequences"), "test": ("testing",)}.get(split, ("training", "sequences"))
    found: list[Path] = []
    for folder in (*(root / name for name in folders), root):
        for camera in _KITTI_CAMERAS:
            places = [folder / camera, *sorted(folder.glob(f"*/{camera}"))] if folder.is_dir() else []
            for place in places:
                found += list_images([place]) if place.is_dir() else []
        if found:
            return found
    return found


def _kitti_splits(root: Path) -> tuple[str, ...]:
    return (
        (*ONE_SET, *(("test",) if (root / "testing").is_dir() else ())) if _kitti_images(root, "all") else ()
    )


def _kitti_samples(root: Path, split: str) -> list[Sample]:
    found = []
    for image in _kitti_images(root, split):
        sequence = image.parent.name
        maps = [root / "panoptic_maps" / part / sequence / f"{image.stem}.png" for part in ("train", "val")]
        labels = first_file(maps)
        if split in ("train", "val") and (root / "panoptic_maps").is_dir():
            labels = first_file([maps[split == "val"]])
            if labels is None:
                continue
        found.append(Sample(image.relative_to(root).with_suffix("").as_posix(), image, labels))
    return found


@lru_cache(maxsize=1)
def _step_ids() -> Encoding:
    """KITTI-STEP's panoptic maps: the train id in the red channel."""
    plain = train_ids()
    return Encoding("KITTI-STEP ids", plain.meaning, plain.table, read_red_ids)


# Folders: images/<clip>/*.png, and labels/<clip>/*.png with the same names


def _folder_samples(root: Path, split: str) -> list[Sample]:
    found = []
    base = root if split == "all" else root / split
    for image in images_inside(base / "images"):
        inside = image.relative_to(base / "images")
        labels = base / "labels" / inside.parent
        files = [labels / f"{image.stem}{suffix}.png" for suffix in (TRAIN_IDS, LABEL_IDS, "")]
        found.append(Sample(inside.with_suffix("").as_posix(), image, first_file(files)))
    return found


def _folder_splits(root: Path) -> tuple[str, ...]:
    if subfolders(root / "images"):
        return ("all",)
    return tuple(name for name in subfolders(root) if subfolders(root / name / "images"))


def _inside(*parts: str) -> Callable[[Path, str], list[Path]]:
    return lambda root, split: label_maps_inside(root.joinpath(*(p or split for p in parts)))


CLIPS: dict[str, tuple[Layout, re.Pattern[str] | None]] = {
    "cityscapes": (
        Layout(
            "cityscapes",
            "leftImg8bit_sequence/<split>/<city>/*_leftImg8bit.png, with gtFine/<split>/<city>/ for some",
            lambda root: tuple(subfolders(root / _SEQUENCE)),
            _cityscapes_samples,
            _inside("gtFine", ""),
            encoding_by_name,
        ),
        _CITYSCAPES_NUMBER,
    ),
    "vspw": (
        Layout(
            "vspw",
            "data/<video>/origin/*.jpg and data/<video>/mask/*.png, <split>.txt, label_num_dic_final.json",
            _vspw_splits,
            _vspw_samples,
            _vspw_labels,
            _vspw_encoding,
        ),
        None,
    ),
    "viper": (
        Layout(
            "viper",
            "<split>/img/<sequence>/*.jpg and <split>/cls/<sequence>/*.png",
            _viper_splits,
            _viper_samples,
            _inside("", "cls"),
            lambda path: _viper_ids(),
        ),
        None,
    ),
    "kitti": (
        Layout(
            "kitti",
            "training/image_02/<sequence>/*.png, sequences/<sequence>/image_2/*.png or "
            "<drive>/image_02/data/*.png; panoptic_maps/<split>/<sequence>/*.png of KITTI-STEP for labels",
            _kitti_splits,
            _kitti_samples,
            _inside("panoptic_maps", ""),
            lambda path: _step_ids(),
        ),
        None,
    ),
    "folder": (
        Layout(
            "folder",
            "images/<clip>/* and labels/<clip>/*.png of the same names, or <split>/ with them",
            _folder_splits,
            _folder_samples,
            _inside("labels"),
            encoding_by_name,
        ),
        None,
    ),
}
"""Arrangements of clips by name, with the pattern of a file's number where a folder holds several clips."""
