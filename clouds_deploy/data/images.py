"""Reading and writing image files; every error names the file."""

from __future__ import annotations

import contextlib
import io
import os
import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from clouds_deploy.artifacts import atomic_path
from clouds_deploy.errors import CloudsError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v"})

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow's names of the formats of `IMAGE_SUFFIXES`, the only ones decoded from untrusted bytes."""

Pixels = npt.NDArray[np.uint8]


def _open(path: Path, lower_bytes: bool = False, data: bytes | None = None) -> Image.Image:
    """Opens and decodes a whole file, so that a truncated one is found here.

    Args:
        path: The file, or only its name where `data` is given.
        lower_bytes: Whether to keep the lower bytes of a PNG with 16-bit colour channels. Pillow
            has no mode for such files and keeps the upper bytes; made to read the big-endian samples as
            little-endian ones, it keeps the lower. Other files are read as usual.
        data: The file's bytes, of one of `FORMATS`; None reads the file.
    """
    try:
        image = Image.open(path) if data is None else Image.open(io.BytesIO(data), formats=FORMATS)
        if lower_bytes and image.mode in ("RGB", "RGBA"):
            image.tile = [
                tile._replace(args=f"{image.mode};16L") if tile.args == f"{image.mode};16B" else tile
                for tile in image.tile
            ]
        image.load()
    except FileNotFoundError as error:
        raise CloudsError(f"there is no file {path}", "check the path") from error
    except UnidentifiedImageError as error:
        raise CloudsError(f"{path} is not an image", "remove it, or replace it by the original") from error
    except (PermissionError, IsADirectoryError) as error:
        raise CloudsError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise CloudsError(f"{path} is a damaged image: {error}", "copy or download it again") from error
    return image


def read_image(path: Path) -> Pixels:
    """Reads an image as RGB; grey, palette, transparent and 16-bit files are converted.

    Args:
        path: The file; its EXIF orientation is applied, unless the EXIF block itself is damaged.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CloudsError: There is no such file, or it is not an image, or damaged.
    """
    return _to_rgb(_open(path))


def decode_image(data: bytes, name: str) -> Pixels:
    """Reads an image as RGB from bytes; see `read_image`, and first `measure_image`.

    Args:
        data: The file's bytes, of one of `FORMATS`.
        name: For messages.
    """
    return _to_rgb(_open(Path(name), data=data))


def measure_image(data: bytes, name: str) -> tuple[int, int]:
    """Height and width according to an image's header; nothing is decoded.

    A few kB can decode to gigabytes: callers with untrusted images check this first.

    Args:
        data: The file's bytes, of one of `FORMATS`.
        name: For messages.

    Raises:
        CloudsError: It is not an image.
    """
    largest = Image.MAX_IMAGE_PIXELS
    try:
        width, height = Image.open(io.BytesIO(data), formats=FORMATS).size
    except UnidentifiedImageError as error:
        raise CloudsError(f"{name} is not an image", f"send one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError:
        return 2**31, largest or 1  # more than Pillow decodes
    except (OSError, SyntaxError, ValueError) as error:
        raise CloudsError(f"{name} is a damaged image: {error}", "send it again, whole") from error
    return height, width


def _to_rgb(image: Image.Image) -> Pixels:
    with contextlib.suppress(SyntaxError, ValueError, OSError, KeyError, struct.error):
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip instead of scaling
        values = np.nan_to_num(np.asarray(image, np.float32))
        most = values.max(initial=0)
        top = 65535.0 if most > 255 else 1.0 if image.mode == "F" and most <= 1 else 255.0
        image = Image.fromarray((values * (255.0 / top)).clip(0, 255).astype(np.uint8))
    return np.array(image.convert("RGB"))


def read_label_ids(path: Path) -> Pixels:
    """Reads the raw ids of a label map, in any encoding.

    Args:
        path: A PNG of 1 to 8 bits (grey or palette), or of 16 bits with values below 256. A file that a
            PNG optimiser reduced to fewer bits gives the original ids.

    Returns:
        (H, W) uint8 ids.

    Raises:
        CloudsError: There is no such file, it is not an image, damaged, or a colour picture.
    """
    return _to_ids(_open(path), str(path))


def decode_label_ids(data: bytes, name: str) -> Pixels:
    """Reads a label map's raw ids from bytes; see `read_label_ids` and `decode_image`."""
    return _to_ids(_open(Path(name), data=data), name)


def _to_ids(image: Image.Image, path: str) -> Pixels:
    if image.mode in ("L", "P"):
        return np.array(image, np.uint8)
    if image.mode == "1":  # an optimiser stores a map of only 0 and 255 in one bit
        return np.array(image.convert("L"))
    values = np.asarray(image)
    if values.ndim == 3 and image.mode in ("RGB", "RGBA", "LA"):
        colors = 1 if image.mode == "LA" else 3
        if (values[..., :colors] == values[..., :1]).all():  # a grey map stored in several channels
            return np.ascontiguousarray(values[..., 0])
        raise CloudsError(
            f"{path} is a colour picture, not a map of label ids",
            "give the one-channel PNG (such as *_labelTrainIds.png), not the coloured one",
        )
    if values.ndim != 2 or values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise CloudsError(
            f"{path} holds values outside 0..255 (mode {image.mode})",
            "give a map of label ids, not of instance ids",
        )
    return values.astype(np.uint8)


def read_red_ids(path: Path) -> Pixels:
    """Reads ids stored in the first channel of a colour PNG, as SYNTHIA does.

    Args:
        path: A PNG of three or four channels of 16 or 8 bits (or of 8 bits stretched to 16); one of a single
            channel is read as `read_label_ids` does.

    Returns:
        (H, W) uint8 ids.

    Raises:
        CloudsError: There is no such file, it is not an image, damaged, or has ids above 255.
    """
    lower = _open(path, lower_bytes=True)
    if lower.mode not in ("RGB", "RGBA"):
        return read_label_ids(path)
    ids = np.ascontiguousarray(np.asarray(lower)[..., 0])
    above = np.asarray(_open(path))[..., 0]  # equals `ids` in a file of 8 bits, also if stretched to 16
    if above.any() and not np.array_equal(above, ids):
        raise CloudsError(
            f"{path} holds values above 255 in its first channel",
            "give the map of class ids: 16-bit PNGs with the class in the first channel",
        )
    return ids


def write_png(path: Path, pixels: Pixels) -> None:
    """Writes a PNG atomically.

    Args:
        path: The file; its folder is created.
        pixels: (H, W) uint8 or (H, W, 3) uint8 RGB.

    Raises:
        CloudsError: The disk is full or the place is not writable; no partial file remains.
    """
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", compress_level=3)


def files_inside(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    """Sorted files of certain suffixes in a folder and below.

    Hidden files are skipped: they are temporary ones, or `._` files of macOS, never images. Links to folders
    are followed, but not back to a folder that holds the link.

    Raises:
        CloudsError: A folder below cannot be read.
    """
    return [path for path in walk(folder) if path.suffix.lower() in suffixes]


def walk(folder: Path) -> list[Path]:
    """Sorted files in a folder and below, without hidden ones; see `files_inside`."""
    found: list[Path] = []
    todo: list[tuple[Path, tuple[Path, ...]]] = [(folder, ())]
    while todo:
        here, above = todo.pop()
        real = here.resolve()
        if real in above:
            continue
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.is_dir():
                        todo.append((here / entry.name, (*above, real)))
                    elif entry.is_file() and not entry.name.startswith("."):
                        found.append(here / entry.name)
        except OSError as error:
            raise CloudsError(
                f"{here} cannot be read: {error.strerror}", "check the folder's permissions, or move it away"
            ) from error
    return sorted(found)


def list_files(paths: Iterable[Path], suffixes: frozenset[str]) -> list[Path]:
    """Files of certain suffixes among files and, recursively, folders, without hidden ones.

    Args:
        paths: Files and folders; a file is accepted with any suffix.
        suffixes: Of the files in folders, in lower case with the dot.

    Returns:
        The files in the order given, each folder's sorted.

    Raises:
        CloudsError: A path does not exist, or a folder holds no such file.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = files_inside(path, suffixes)
            if not inside:
                raise CloudsError(f"{path} holds no images", f"looked for {', '.join(sorted(suffixes))}")
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise CloudsError(f"there is no file or folder {path}", "check the path")
    return found


def list_images(paths: Iterable[Path]) -> list[Path]:
    """Images; see `list_files`."""
    return list_files(paths, IMAGE_SUFFIXES)


def fit_size(
    height: int, width: int, *, short: int | None = None, long: int | None = None
) -> tuple[int, int]:
    """Height and width of an image resized with its aspect kept, each at least 1.

    Halves are rounded up, as in the test mapper of the method (docs/explanation/method.md 5) and in
    `ResizeLongestSide` of `segment_anything`.

    Args:
        height: The image's own, in pixels.
        width: The image's own, in pixels.
        short: Pixels of the shorter side afterwards.
        long: Pixels of the longer side afterwards; with `short`, an upper bound. Neither: the size stays.
    """
    scales = [side / of for side, of in ((short, min(height, width)), (long, max(height, width))) if side]
    scale = min(scales, default=1.0)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize(
    image: Pixels, size: tuple[int, int], resampling: Image.Resampling = Image.Resampling.BILINEAR
) -> Pixels:
    """Image or label map of another size; the array itself where nothing changes.

    Args:
        image: (H, W, 3) uint8 RGB, or (H, W) uint8.
        size: (height, width) afterwards; see `fit_size`.
        resampling: Antialiased bilinear for images; `NEAREST` for labels.

    Returns:
        (height, width, 3) or (height, width) uint8.
    """
    if size == image.shape[:2]:
        return image
    return np.array(Image.fromarray(np.ascontiguousarray(image)).resize(size[::-1], resampling))
