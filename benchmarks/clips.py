"""What `--smooth` gains on clips of `photo` streets, and how exact and quick the clips are.

python benchmarks/clips.py --model quickstart/joint [--model OTHER ...] --out benchmarks/results/clips.json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from clouds_deploy.evaluation.consistency import constancy, flow_consistency, video_consistency
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.inference.segmenter import Segmenter, open_model
from clouds_deploy.inference.smooth import Smoother
from clouds_deploy.streets import DOMAINS, Clip, Frame


class _Kept:
    """A segmenter that computes the scores of each frame once, for all strengths."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._segmenter, self._scores = segmenter, dict[int, Any]()
        self.seconds = 0.0

    def scores_at(self, image: Any, size: tuple[int, int]) -> Any:
        if id(image) not in self._scores:
            start = time.perf_counter()
            self._scores[id(image)] = self._segmenter.scores_at(image, size)
            self.seconds += time.perf_counter() - start
        return self._scores[id(image)]


def measure(segmenter: Any, clips: list[list[Frame]], strength: float | None) -> dict[str, float]:
    """mIoU, mVC and consistency under true flow, in percent; and milliseconds a frame of smoothing."""
    matrix, windows, same, seen = ConfusionMatrix(), {"mvc8": [], "mvc16": [], "constancy8": []}, 0, 0
    start = time.perf_counter()
    for frames in clips:
        smoother = Smoother(segmenter) if strength is None else Smoother(segmenter, strength)
        found = [smoother(frame.image) for frame in frames]
        truths = [frame.labels for frame in frames]
        for truth, labels in zip(truths, found, strict=True):
            matrix.update(labels, truth)
        windows["mvc8"] += video_consistency(truths, found, 8)
        windows["mvc16"] += video_consistency(truths, found, 16)
        windows["constancy8"] += constancy(truths, found, 8)
        for frame, a, b in zip(frames, found, found[1:], strict=False):
            kept, all_seen = flow_consistency(a, b, frame.flow, frame.occluded)
            same, seen = same + kept, seen + all_seen
    seconds = time.perf_counter() - start
    means = {name: 100 * float(np.mean(values)) for name, values in windows.items()}
    return {
        "miou": 100 * matrix.miou(),
        **means,
        "flow_consistency": 100 * same / seen,
        "ms_per_frame": 1000 * seconds / sum(map(len, clips)),
    }


def warp_error(domain: str, count: int) -> dict[str, float]:
    """Grey levels left when frame t + 1 is warped onto t outside occlusions; frames per second."""
    import cv2

    errors, seconds, hidden, frames = [], 0.0, [], 0
    for index in range(count):
        start = time.process_time()
        shown = list(Clip(domain, 0, index).frames(8))
        seconds, frames = seconds + time.process_time() - start, frames + len(shown)
        for now, then in pairwise(shown):
            rows, columns = np.mgrid[0:128, 0:256].astype(np.float32)
            x, y = columns + now.flow[..., 0], rows + now.flow[..., 1]
            carried = cv2.remap(then.surface.astype(np.float32), x, y, cv2.INTER_LINEAR)
            error = np.abs(carried - now.surface).mean(-1)
            errors.append(float(error[~now.occluded].mean()))
            hidden.append(float(now.occluded.mean()))
    return {
        "mean": float(np.mean(errors)),
        "worst_frame": max(errors),
        "occluded_percent": 100 * float(np.mean(hidden)),
        "frames_per_second": frames / seconds,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="a run, or a bundle with scores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1001, 1002, 1003])
    parser.add_argument("--clips", type=int, default=10, help="of each seed")
    parser.add_argument("--frames", type=int, default=24, help="of each clip")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    result: dict[str, Any] = {"date": str(date.today()), "machine": platform.processor(), **vars(chosen)}
    result["out"] = str(chosen.out)
    result["streets"] = {domain: warp_error(domain, chosen.clips) for domain in DOMAINS}
    print(json.dumps(result["streets"]), flush=True)
    result["smooth"] = []
    for model in chosen.model:
        segmenter = open_model(model, device="cpu")
        for seed in chosen.seeds:
            clips = [list(Clip("photo", seed, c).frames(chosen.frames)) for c in range(chosen.clips)]
            kept = _Kept(segmenter)
            plain = measure(kept, clips, 0.0)
            smooth = measure(kept, clips, None)
            alone = 1000 * kept.seconds / (chosen.clips * chosen.frames)
            plain["ms_per_frame"], smooth["ms_per_frame"] = alone, alone + smooth["ms_per_frame"]
            row = {"model": model, "seed": seed, "plain": plain, "smooth": smooth}
            print(json.dumps(row), flush=True)
            result["smooth"].append(row)
    if chosen.out:
        chosen.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
