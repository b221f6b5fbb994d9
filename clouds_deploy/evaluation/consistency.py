"""How steady predictions are over the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from clouds_deploy.labels import IGNORE

Labels = npt.NDArray[np.uint8]


def video_consistency(truths: Sequence[Labels], predictions: Sequence[Labels], length: int) -> list[float]:
    """Video consistency of each window of frames (VC_n of VSPW, Miao et al., CVPR 2021).

    Of the pixels whose true class is the same in `length` frames, the share whose predicted class is that
    true class in all of them: `|S_1 & .. & S_n & P_1 & .. & P_n| / |S_1 & .. & S_n|`.

    Args:
        truths: (H, W) uint8 labels of the frames of one clip; `IGNORE` is never counted.
        predictions: Labels of the same shape.
        length: Frames in a window, n.

    Returns:
        A value in 0..1 for every window that begins in the clip and ends in it, in their order, without those
        that have no such pixel; none for a clip that is shorter.
    """
    return _windows(truths, predictions, length, right=True)


def constancy(truths: Sequence[Labels], predictions: Sequence[Labels], length: int) -> list[float]:
    """What VSPW's published script computes under the same name: the prediction need not be right.

    Arguments and results as of `video_consistency`; as in the script, a clip's last window is left out.
    """
    return _windows(truths[:-1], predictions[:-1], length, right=False)


def _windows(
    truths: Sequence[Labels], predictions: Sequence[Labels], length: int, *, right: bool
) -> list[float]:
    found = []
    for start in range(len(truths) - length + 1):
        first, guess = truths[start], truths[start] if right else predictions[start]
        constant = first != IGNORE
        for truth in truths[start + 1 : start + length]:
            constant = constant & (truth == first)
        steady = constant
        for prediction in predictions[start : start + length]:
            steady = steady & (prediction == guess)
        total = int(constant.sum())
        if total:
            found.append(int(steady.sum()) / total)
    return found


def flow_consistency(
    now: Labels, then: Labels, flow: npt.NDArray[np.float32], occluded: npt.NDArray[np.bool_]
) -> tuple[int, int]:
    """Agreement of two frames' predictions under known motion.

    Args:
        now: (H, W) uint8 predicted labels.
        then: Those of the next frame.
        flow: (H, W, 2) float32 pixels to the right and down, to the next frame.
        occluded: (H, W) bool, pixels that are not seen in the next frame.

    Returns:
        Number of pixels that keep their label where they go (nearest pixel), and of all pixels that are seen.
    """
    height, width = now.shape
    rows, columns = np.mgrid[0:height, 0:width]
    down = np.rint(rows + flow[..., 1]).astype(np.int64)
    right = np.rint(columns + flow[..., 0]).astype(np.int64)
    seen = ~occluded & (down >= 0) & (right >= 0) & (down < height) & (right < width)
    return int((now[seen] == then[down[seen], right[seen]]).sum()), int(seen.sum())
