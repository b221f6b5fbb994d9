"""Reading and writing image files; every error names the file."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from rich.markup import escape

from clouds_deploy.artifacts import atomic_path
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError, first_line, shortened

IMAGE_SUFFIXES = frozenset(
    {
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pnm",
        ".gif",
    }
)
VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".mkv", ".avi", ".webm", ".m4v", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".3gp"}
)
PASSED_OVER = frozenset(
    {
        ".heic",
        ".heif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".svg",
        ".eps",
        ".psd",
        ".exr",
        ".hdr",
        ".tga",
        ".ico",
    }
    | {".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".flv", ".ogv", ".vob", ".pdf", ".npy"}
)
"""Suffixes of pictures and videos that are not read, but counted and named where a folder holds them."""

FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "PPM")
"""Pillow's names of the formats that are decoded from untrusted bytes."""

_FILE_FORMATS = (*FORMATS, "GIF", "MPO")
DECODER_FAULTS = (
    OSError, SyntaxError, ValueError, EOFError, struct.error, LookupError, TypeError, AttributeError,
    ArithmeticError, RecursionError, MemoryError, RuntimeError, AssertionError,
)  # fmt: skip
"""What Pillow's decoders raise for damaged files: they are meant for whole ones, and check little."""
LARGEST_PIXELS = 500_000_000
"""Pixels of the largest image that is read: 1.5 GB. Pillow's own limit, meant for untrusted bytes, is 179
million; who reads those checks `measure_image` first."""

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
        image = _identify(path if data is None else io.BytesIO(data), FORMATS if data else _FILE_FORMATS)
        if image.width * image.height > LARGEST_PIXELS:
            raise CloudsError(
                f"{path} is too large: {image.width}x{image.height} pixels; "
                f"at most {LARGEST_PIXELS // 10**6} million are read",
                "cut it into tiles, or make it smaller",
            )
        deep = any(_swapped(tile.args) != tile.args for tile in image.tile)
        if lower_bytes and image.mode in ("RGB", "RGBA"):
            image.tile = [tile._replace(args=_swapped(tile.args)) for tile in image.tile]
        image.load()
        image.info[_DEEP], image.info[_FRAMES] = deep, getattr(image, "n_frames", 1)
    except FileNotFoundError as error:
        raise CloudsError(f"there is no file {path}", "check the path") from error
    except UnidentifiedImageError as error:
        raise _unsupported(path, data) from error
    except (PermissionError, IsADirectoryError) as error:
        raise CloudsError(
            f"{path} cannot be read: {error.strerror}", "check the path and its permissions"
        ) from error
    except Image.DecompressionBombError as error:
        raise CloudsError(
            f"{path} is too large: {first_line(error)}", "cut it into tiles, or make it smaller"
        ) from error
    except DECODER_FAULTS as error:
        raise CloudsError(
            f"{path} is a damaged image: {first_line(error)}", "copy or download it again"
        ) from error
    return image


def _identify(source: Path | io.BytesIO, formats: tuple[str, ...]) -> ImageFile:
    """Opens an image of certain formats as `Image.open` does, without its limit of pixels.

    The limit is a setting of the whole process, which a library leaves alone.
    """
    Image.init()
    file = source.open("rb") if isinstance(source, Path) else source
    try:
        start = file.read(16)
        for name in formats:
            factory, accepts = Image.OPEN.get(name, (None, None))
            known = accepts is None or accepts(start)
            if factory is None or not known or isinstance(known, str):
                continue
            file.seek(0)
            with contextlib.suppress(SyntaxError, IndexError, TypeError, struct.error):
                image = factory(file, str(source) if isinstance(source, Path) else "")
                if isinstance(source, Path):
                    image._exclusive_fp = True  # closes the file once it is decoded
                return image
        raise UnidentifiedImageError
    except BaseException:
        file.close()
        raise


def _swapped(arguments: Any) -> Any:
    """Decoder's arguments with 16-bit samples in the other byte order, whose lower bytes are kept then."""
    if isinstance(arguments, tuple):
        return (_swapped(arguments[0]), *arguments[1:]) if arguments else arguments
    if isinstance(arguments, str) and arguments.endswith((";16B", ";16L", ";16N")):
        little = arguments[-1] == "L" or (arguments[-1] == "N" and sys.byteorder == "little")
        return arguments[:-1] + ("B" if little else "L")
    return arguments


_STARTS = {
    b"%!PS": "PostScript",
    b"%PDF": "PDF",
    b"<svg": "SVG",
    b"<?xm": "XML or SVG",
    b"8BPS": "Photoshop",
    b"\xff\x0a": "JPEG XL",
    b"\x00\x00\x00\x0cJXL": "JPEG XL",
    b"\x00\x00\x00\x0cjP": "JPEG 2000",
    b"\x93NUMPY": "NumPy array",
    b"v/1\x01": "OpenEXR",
    b"II*\x00": "TIFF of a kind",
    b"MM\x00*": "TIFF of a kind",
    b"II+\x00": "BigTIFF",
    b"GIF8": "GIF",
}


def _unsupported(path: Path, data: bytes | None) -> CloudsError:
    """Error for a file that no reader takes: of a known format, or no image at all."""
    try:
        start = (path.open("rb").read(32) if data is None else data[:32]).lstrip(b"\xef\xbb\xbf \n\r\t")
    except OSError:
        start = b""
    name = next((name for mark, name in _STARTS.items() if start.startswith(mark)), None)
    if start[4:8] == b"ftyp":
        brand = start[8:12]
        still = {b"avif": "AVIF", b"avis": "AVIF"}
        video = brand in (b"isom", b"mp41", b"mp42", b"avc1", b"qt  ", b"M4V ", b"iso2", b"iso5", b"iso6")
        name = "MP4 or MOV video" if video else still.get(brand, "HEIF (HEIC)")
    if name is None:
        return CloudsError(f"{path} is not an image", "remove it, or replace it by the original")
    extra = ", such as colours as floating-point numbers" if name.startswith("TIFF") else ""
    return CloudsError(
        f"{path} is a {name} file{extra}, which is not supported",
        "convert it to PNG or JPEG, 8 bits a channel",
    )


_told: set[str] = set()


def _tell_once(kind: str, text: str) -> None:
    """Prints how a kind of image is read, for the first of its kind."""
    if kind not in _told:
        _told.add(kind)
        warn(escape(text))


def read_image(path: Path) -> Pixels:
    """Reads an image as RGB; grey, palette, transparent, CMYK and 16-bit files are converted.

    Values of 10, 12 or 14 bits in a file of 16 are scaled by their own range, and this is printed.

    Args:
        path: The file; its EXIF orientation is applied, unless the EXIF block itself is damaged.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        CloudsError: There is no such file, or it is not an image, or damaged.
    """
    return _to_rgb(_open(path), str(path), lambda: _open(path, lower_bytes=True))


def decode_image(data: bytes, name: str) -> Pixels:
    """Reads an image as RGB from bytes; see `read_image`, and first `measure_image`.

    Args:
        data: The file's bytes, of one of `FORMATS`.
        name: For messages.
    """
    return _to_rgb(_open(Path(name), data=data), name, lambda: _open(Path(name), lower_bytes=True, data=data))


def measure_image(data: bytes, name: str) -> tuple[int, int]:
    """Height and width according to an image's header; nothing is decoded.

    A few kB can decode to gigabytes: callers with untrusted images check this first.

    Args:
        data: The file's bytes, of one of `FORMATS`.
        name: For messages.

    Raises:
        CloudsError: It is not an image.
    """
    try:
        width, height = _identify(io.BytesIO(data), FORMATS).size
    except UnidentifiedImageError as error:
        raise CloudsError(f"{name} is not an image", f"send one of {', '.join(FORMATS)}") from error
    except Image.DecompressionBombError as error:
        raise CloudsError(f"{name} is too large: {first_line(error)}", "send a smaller image") from error
    except DECODER_FAULTS as error:
        raise CloudsError(
            f"{name} is a damaged image: {first_line(error)}", "send it again, whole"
        ) from error
    return height, width


def _to_rgb(image: Image.Image, name: str, lower: Callable[[], Image.Image]) -> Pixels:
    """RGB pixels of a decoded image.

    Args:
        image: The image.
        name: For messages.
        lower: Decodes it again, with the lower bytes of 16-bit colour channels.
    """
    frames = image.info.get(_FRAMES, 1)
    if frames > 1 and image.format != "MPO":
        _tell_once(f"frames {image.format}", f"{name} holds {frames} pictures: the first is read")
    if image.info.get(_DEEP) and image.mode in ("RGB", "RGBA"):
        image = _scaled_colors(image, name, lower)
    with contextlib.suppress(*DECODER_FAULTS):
        if image.getexif().get(_ORIENTATION, 1) != 1:  # else a copy would be made for nothing
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):  # 16 bits and more: Pillow would clip instead of scaling
        values = np.nan_to_num(np.asarray(image, np.float32))
        most = float(values.max(initial=0))
        top = 1.0 if image.mode == "F" and most <= 1 else _top(most, name) if most > 255 else 255.0
        image = Image.fromarray((values * (255.0 / top)).clip(0, 255).astype(np.uint8))
    try:
        return _array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise CloudsError(
            f"{name} has the colour mode {image.mode}, which is not supported", "convert it to RGB"
        ) from error


_ORIENTATION, _DEEP = 0x0112, "clouds_deploy: 16 bits a channel"
_FRAMES = "clouds_deploy_frames"  # key of `info`: number of pictures


def _scaled_colors(image: Image.Image, name: str, lower: Callable[[], Image.Image]) -> Image.Image:
    """An image of 16-bit colours, of which Pillow keeps the upper bytes, if only the lower ones hold much."""
    most = int(np.asarray(image.convert("RGB")).max(initial=0))
    if most >= 1 << 6:
        return image
    exif = image.getexif()
    values = np.asarray(image.convert("RGB"), np.float32) * 256 + np.asarray(lower().convert("RGB"))
    largest = float(values.max(initial=0))
    top = _top(largest, name) if largest > 255 else 255.0
    scaled = Image.fromarray((values * (255.0 / top)).clip(0, 255).astype(np.uint8))
    scaled.info["exif"] = exif.tobytes()
    return scaled


def _top(most: float, name: str) -> float:
    """White of a 16-bit file with values up to `most`: cameras of 10, 12 and 14 bits leave the rest empty."""
    bits = next((bits for bits in (10, 12, 14) if most < 2**bits), 16)
    if bits < 16:
        _tell_once(
            f"{bits} bits",
            f"{name} holds values of {bits} bits in 16: scaled by {2**bits - 1} (so are others)",
        )
    return float(2**bits - 1)


def _array(image: Image.Image) -> Pixels:
    """An RGB image's pixels, copied in strips: Pillow would hold the whole twice more meanwhile."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, (1 << 20) // image.width)
    for row in range(0, image.height, step):
        pixels[row : row + step] = np.asarray(
            image.crop((0, row, image.width, min(row + step, image.height)))
        )
    return pixels


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
            "give the one-channel PNG (such as *_labelTrainIds.png), not the coloured one; or a label set "
            "with `format: colors`",
        )
    if values.ndim != 2 or values.min(initial=0) < 0 or values.max(initial=0) > 255:
        raise CloudsError(
            f"{path} holds values outside 0..255 (mode {image.mode})",
            "give a map of label ids, not of instance ids",
        )
    return values.astype(np.uint8)


def read_wide_ids(path: Path) -> npt.NDArray[np.int32]:
    """Reads ids or instance ids of up to 16 bits (a TIFF: 31) in one channel.

    Returns:
        (H, W) int32.

    Raises:
        CloudsError: There is no such file, it is not an image, damaged, or a colour picture.
    """
    image = _open(path)
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if values.min(initial=0) < 0 or (values != np.floor(values)).any():
            raise CloudsError(f"{path} holds values that are no ids", "give a map of ids from 0 on")
        return values.astype(np.int32)
    return _to_ids(image, str(path)).astype(np.int32)


def read_colors(path: Path) -> Pixels:
    """Reads a colour-coded label map; transparency is dropped.

    Returns:
        (H, W, 3) uint8 RGB, of a palette file its palette's colours.

    Raises:
        CloudsError: There is no such file, it is not an image, or damaged.
    """
    image = _open(path)
    return _array(image if image.mode == "RGB" else image.convert("RGB"))


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
    return [
        path
        for path in walk(folder)
        if (suffix := path.suffix.lower()) in suffixes and (suffix != ".ts" or _is_transport_stream(path))
    ]


def _is_transport_stream(path: Path) -> bool:
    """Whether a file named .ts is a video, not TypeScript: its packets of 188 bytes begin with 0x47."""
    try:
        with path.open("rb") as file:
            start = file.read(189)
    except OSError:
        return False
    return start[:1] == b"G" and start[188:] in (b"G", b"")


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
                over = [file.name for file in files_inside(path, PASSED_OVER)]
                unread = f", only files of formats that are not read: {shortened(over)}" if over else ""
                raise CloudsError(
                    f"{path} holds no images{unread}", f"looked for {', '.join(sorted(suffixes))}"
                )
            found.extend(inside)
        elif path.is_file():
            found.append(path)
        else:
            raise CloudsError(f"there is no file or folder {path}", "check the path")
    return found


def passed_over(paths: Iterable[Path]) -> list[Path]:
    """Pictures and videos in folders that are of no format that is read; see `PASSED_OVER`."""
    return [file for path in paths if path.is_dir() for file in files_inside(path, PASSED_OVER)]


def tell_passed_over(files: Sequence[str | Path]) -> None:
    """Prints how many files were passed over, and some of their names."""
    if files:
        kinds = Counter(Path(file).suffix.lower() for file in files)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        some = shortened([Path(file).name for file in files])
        warn(escape(f"passed over {len(files)} files of formats that are not read ({counts}): {some}"))


def list_images(paths: Iterable[Path]) -> list[Path]:
    """Images; see `list_files`."""
    return list_files(paths, IMAGE_SUFFIXES)


THIN = 16
"""Longest side in shortest sides of an image that is resized by its shorter one: a strip of 1x2000 pixels
would have a million pixels a row otherwise."""
NETWORK_PIXELS = 1 << 25
"""Most pixels that the network of a run sees: see `network_size`."""


def fit_size(
    height: int, width: int, *, short: int | None = None, long: int | None = None
) -> tuple[int, int]:
    """Height and width of an image resized with its aspect kept, each at least 1.

    Halves are rounded up, as in the test mapper of the method (docs/explanation/method.md 5) and in
    `ResizeLongestSide` of `segment_anything`.

    Args:
        height: The image's own, in pixels.
        width: The image's own, in pixels.
        short: Pixels of the shorter side afterwards; the longer one then has at most `THIN` times as many.
        long: Pixels of the longer side afterwards; with `short`, an upper bound. Neither: the size stays.
    """
    if short and not long:
        long = THIN * short
    scales = [side / of for side, of in ((short, min(height, width)), (long, max(height, width))) if side]
    scale = min(scales, default=1.0)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def network_size(height: int, width: int, short: int | None) -> tuple[int, int]:
    """Height and width at which a run's network sees an image.

    A network takes 250 bytes a pixel and more, so what it sees is bounded; who calls this resizes the labels
    back. Where an image is made smaller for this reason, it is printed, once for each size.

    Args:
        height: The image's own, in pixels.
        width: The image's own, in pixels.
        short: Pixels of the shorter side, as in `fit_size`; None leaves an image as it is, up to
            `NETWORK_PIXELS`.
    """
    wanted = fit_size(height, width, short=short)
    if not seen_smaller(height, width, short):
        return wanted
    scale = (NETWORK_PIXELS / (wanted[0] * wanted[1])) ** 0.5
    rows, columns = (max(1, int(side * scale)) for side in wanted)
    _tell_once(
        f"network {height}x{width}",
        f"images of {width}x{height} are more than the network sees at once, {NETWORK_PIXELS / 1e6:.0f} "
        f"million pixels: it sees them at {columns}x{rows}; their labels keep the images' size",
    )
    return rows, columns


def seen_smaller(height: int, width: int, short: int | None) -> bool:
    """Whether `network_size` makes an image smaller because of its number of pixels."""
    rows, columns = fit_size(height, width, short=short)
    return rows * columns > NETWORK_PIXELS


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
