"""Smooth labels of video: class probabilities carried along motion from frame to frame.

`p_t = (1 - a) p_t + a warp(p_{t-1})`, where `a` is at most `strength`, falls with the difference between the
frame and the carried previous one, and is 0 where flow forward and back disagree, as at what was hidden
before. A cut to another scene so ends the memory by itself. Flow is OpenCV's DIS (Kroeger et al., ECCV 2016),
or given; the check of both directions is that of Sundaram et al. (ECCV 2010).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from clouds_deploy.errors import CloudsError, install
from clouds_deploy.inference.segmenter import Picture, Segmenter

Floats = npt.NDArray[np.float32]

STRENGTH = 0.85
"""Largest weight of the past."""
_TOLERANCE = 20.0
"""Grey levels of difference at which the past has lost a good part, 1 - 1/e, of its weight."""
_PIXELS = 1 << 18
"""Frames with more pixels are smoothed at a smaller size: all classes' probabilities are in memory."""


def _opencv() -> Any:
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise CloudsError("smoothing needs OpenCV's optical flow", install("video")) from error
    return cv2


class Smoother:
    """Labels the frames of one video after the other, each with the help of those before it.

    Args:
        segmenter: The model; a bundle has to give scores.
        strength: Largest weight of the past, 0 to less than 1; 0 labels every frame alone.

    Raises:
        CloudsError: OpenCV is not installed, or the strength is out of range.
    """

    def __init__(self, segmenter: Segmenter, strength: float = STRENGTH) -> None:
        if not 0.0 <= strength < 1.0:
            raise CloudsError(f"a smoothing strength of {strength:g} is not possible", "give 0 to 0.95")
        self._cv = _opencv()
        self._segmenter, self._strength = segmenter, strength
        self._dis = self._cv.DISOpticalFlow_create(self._cv.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setFinestScale(0)
        self._before: tuple[Picture, Floats] | None = None
        self.weight = 0.0
        """Mean weight of the past in the last frame."""

    def reset(self) -> None:
        """Forgets the past: the next frame is the first of another video."""
        self._before = None

    def __call__(self, frame: Picture, flow: Floats | None = None) -> Picture:
        """Labels the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB.
            flow: (H, W, 2) float32, where each pixel was in the previous frame, as pixels to the right and
                down of where it is; NaN where it was not seen. None estimates it.

        Returns:
            (H, W) uint8 train ids.

        Raises:
            CloudsError: The bundle gives no scores.
        """
        height, width = frame.shape[:2]
        shrink = min(1.0, (_PIXELS / (height * width)) ** 0.5)
        size = max(16, round(height * shrink)), max(16, round(width * shrink))
        scores = self._segmenter.scores_at(frame, size)
        own = scores / np.maximum(scores.sum(0, keepdims=True), np.float32(1e-6))
        seen = frame if size == (height, width) else _resized(frame, size)
        self.weight = 0.0
        if self._before is not None and self._before[0].shape == seen.shape and self._strength:
            if flow is not None:
                flow = _resized_flow(flow, size)
            own = self._blended(seen, own, *self._before, flow)
        self._before = seen, own
        return _labels(own, (height, width))

    def _blended(
        self, frame: Picture, own: Floats, previous: Picture, past: Floats, flow: Floats | None
    ) -> Floats:
        cv = self._cv
        height, width = frame.shape[:2]
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        if flow is None:
            flow, agrees = self._estimated(frame, previous, columns, rows)
        else:
            agrees = np.asarray(np.isfinite(flow).all(-1), np.bool_)
            flow = np.where(agrees[..., None], flow, np.float32(0.0))
        x, y = columns + flow[..., 0], rows + flow[..., 1]
        agrees = agrees & (x >= 0.0) & (y >= 0.0) & (x <= width - 1.0) & (y <= height - 1.0)
        carried = cv.remap(previous, x, y, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
        difference = np.abs(frame.astype(np.float32) - carried).mean(-1)
        difference = cv.blur(difference, (5, 5))
        weight = np.float32(self._strength) * np.exp(-((difference / _TOLERANCE) ** 2)) * agrees
        self.weight = float(weight.mean())
        mixed = np.empty_like(own)
        for number, plane in enumerate(past):
            old = cv.remap(plane, x, y, cv.INTER_LINEAR, borderMode=cv.BORDER_REPLICATE)
            mixed[number] = own[number] + weight * (old - own[number])
        return mixed

    def _estimated(
        self, frame: Picture, previous: Picture, columns: Floats, rows: Floats
    ) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Flow to the previous frame, and where the flow back agrees with it."""
        cv = self._cv
        now, then = (cv.cvtColor(picture, cv.COLOR_RGB2GRAY) for picture in (frame, previous))
        back: Floats = self._dis.calc(now, then, None)
        ahead: Floats = self._dis.calc(then, now, None)
        there = cv.remap(ahead, columns + back[..., 0], rows + back[..., 1], cv.INTER_LINEAR)
        gap = ((back + there) ** 2).sum(-1)
        length = (back**2).sum(-1) + (there**2).sum(-1)
        return back, np.asarray(gap < 0.01 * length + 0.5, np.bool_)


def _resized(frame: Picture, size: tuple[int, int]) -> Picture:
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BILINEAR))


def _resized_flow(flow: Floats, size: tuple[int, int]) -> Floats:
    height, width = flow.shape[:2]
    if size == (height, width):
        return flow
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size[::-1], Image.Resampling.NEAREST))
        * np.float32(scale)
        for plane, scale in ((flow[..., 0], size[1] / width), (flow[..., 1], size[0] / height))
    ]
    return np.stack(planes, -1)


def _labels(shares: Floats, size: tuple[int, int]) -> Picture:
    """The most probable class of every pixel at a size, with two maps of it in memory."""
    if shares.shape[1:] == size:
        return np.asarray(shares.argmax(0), np.uint8)
    best = np.full(size, -1.0, np.float32)
    labels = np.zeros(size, np.uint8)
    for number, plane in enumerate(shares):
        large = np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))
        more = large > best
        best[more] = large[more]
        labels[more] = number
    return labels
