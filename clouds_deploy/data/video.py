"""Video files in and out, through PyAV (the optional extra `video`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.artifacts import atomic_path
from clouds_deploy.data.images import LARGEST_PIXELS, Pixels
from clouds_deploy.errors import CloudsError, install


def _av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise CloudsError("reading video needs PyAV", install("video")) from error
    return av


def frame_rate(path: Path) -> Fraction:
    """Frames per second of a video; errors as `read_frames`."""
    with _container(path) as (_, stream):
        return Fraction(stream.average_rate or 25)


def frame_times(path: Path) -> list[Fraction] | None:
    """Times of a video's frames in seconds, where they differ from those of a constant rate, else None.

    Nothing is decoded; errors as `read_frames`.
    """
    rate = frame_rate(path)
    with _container(path) as (container, stream):
        try:
            stamps = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        except _av().FFmpegError:
            return None  # whoever decodes it names the fault
        base = Fraction(stream.time_base)
    times = [(stamp - stamps[0]) * base for stamp in stamps]
    steady = all(abs(t - n / rate) <= max(base, 1 / (4 * rate)) for n, t in enumerate(times))
    return None if steady or len(set(times)) < len(times) else times


def frame_count(path: Path) -> int:
    """Number of frames according to the file's header, 0 if unknown; errors as `read_frames`."""
    with _container(path) as (_, stream):
        return int(stream.frames)


@contextmanager
def _container(path: Path) -> Iterator[tuple[Any, Any]]:
    av = _av()
    try:
        container = av.open(f"file:{path}")
    except (av.FFmpegError, OSError) as error:
        raise CloudsError(
            f"{path} is not a readable video: {error}", "copy it again, or convert it to MP4"
        ) from error
    with container:
        if not container.streams.video:
            raise CloudsError(f"{path} has no video track", "give a video")
        stream = container.streams.video[0]
        if stream.width * stream.height > LARGEST_PIXELS:
            raise CloudsError(
                f"{path} is too large: {stream.width}x{stream.height} pixels a frame; at most "
                f"{LARGEST_PIXELS // 10**6} million are read",
                "make it smaller",
            )
        # it may grow on the way; the decoder counts with its own borders
        stream.codec_context.options = {"max_pixels": str(2 * LARGEST_PIXELS + (1 << 16))}
        yield container, stream


def _upright(pixels: Pixels, frame: Any) -> Pixels:
    """A frame as its display matrix demands: rotated by quarters, mirrored, or both."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        quarters = round(getattr(frame, "rotation", 0) / 90) % 4
        return np.ascontiguousarray(np.rot90(pixels, quarters)) if quarters else pixels
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)
    if abs(b) + abs(c) > abs(a) + abs(d):  # x and y are swapped: shown x is c times y, shown y is b times x
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


def read_frames(path: Path) -> Iterator[Pixels]:
    """Reads a video frame by frame.

    Yields:
        (H, W, 3) uint8 RGB, rotated upright as the file demands (phones record sideways).

    Raises:
        CloudsError: PyAV is missing, or the file is not a video, or damaged.
    """
    av = _av()
    with _container(path) as (container, stream):
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(stream):
                pixels = frame.to_ndarray(format="rgb24")
                yield _upright(pixels, frame)
        except av.FFmpegError as error:
            raise CloudsError(f"{path} is a damaged video: {error}", "copy it again") from error


class VideoWriter:
    """A video under construction; made by `write_video`.

    Args:
        container: An open PyAV container.
        rate: Frames per second.
    """

    def __init__(self, container: Any, rate: Fraction) -> None:
        self._container, self._rate = container, rate
        self._stream: Any = None
        self.frames = 0

    def write(self, pixels: Pixels, time: Fraction | None = None) -> None:
        """Appends a frame; odd sides lose their last row or column.

        Args:
            pixels: (H, W, 3) uint8 RGB.
            time: When it is shown, in seconds; None means at the constant rate. The same for all frames.
        """
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        if self._stream is None:
            self._stream = self._container.add_stream(_codec(), rate=self._rate)
            if time is not None:
                self._stream.codec_context.time_base = _FINE
            self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        frame = _av().VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        if time is not None:
            frame.pts, frame.time_base = round(time / _FINE), _FINE
        self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def finish(self) -> None:
        """Flushes what the encoder still holds."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


_FINE = Fraction(1, 90_000)
"""Time base of videos of a variable rate."""


def _codec() -> str:
    return "libx264" if "libx264" in _av().codecs_available else "mpeg4"


@contextmanager
def write_video(path: Path, rate: Fraction) -> Iterator[VideoWriter]:
    """Writes an MP4 file atomically.

    Args:
        path: The file, ending in .mp4.
        rate: Frames per second.

    Yields:
        The writer to give frames to.

    Raises:
        CloudsError: PyAV is missing; the disk is full; no frame was written.
    """
    av = _av()
    with atomic_path(path) as temporary, av.open(f"file:{temporary}", "w", format="mp4") as container:
        writer = VideoWriter(container, rate)
        yield writer
        if not writer.frames:
            raise CloudsError(f"{path} would be a video without frames", "give it at least one")
        writer.finish()
