from __future__ import annotations

import hashlib
import math
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CLASSES, NAMES, NUM_CLASSES
from clouds_deploy.streets import DOMAINS, Clip, Frame, render
from clouds_deploy.streets.clip import View

COUNT = 5
STILL_SUMS = [11542550, 8948409, 11365483]
STILL_LABELS = [1622329, 1505582, 1257030]
"""Of `render(domain, 11, 0)` before there were clips."""


@pytest.fixture(scope="module")
def clips() -> dict[tuple[str, int], list[Frame]]:
    return {(d, c): list(Clip(d, 1, c).frames(COUNT, start=4)) for d in DOMAINS for c in range(4)}


def pairs(clips: dict[tuple[str, int], list[Frame]]) -> Iterator[tuple[Frame, Frame]]:
    for frames in clips.values():
        yield from pairwise(frames)


def digest(frame: Frame) -> str:
    parts = (frame.image, frame.surface, frame.labels, frame.instances, frame.depth, frame.flow)
    return hashlib.sha256(b"".join(part.tobytes() for part in (*parts, frame.occluded))).hexdigest()


def sample(values: npt.NDArray[np.generic], columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Bilinear values at places given in pixels, the middle of the first one being 0.5."""
    height, width = values.shape[:2]
    x = np.clip(columns - 0.5, 0.0, width - 1.001)
    y = np.clip(rows - 0.5, 0.0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    extra = (..., *[None] * (values.ndim - 2))
    u, v = (x - left)[extra], (y - top)[extra]
    found = values.astype(np.float64)
    upper = found[top, left] * (1 - u) + found[top, left + 1] * u
    lower = found[top + 1, left] * (1 - u) + found[top + 1, left + 1] * u
    return np.asarray(upper * (1 - v) + lower * v)


def grid(frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    height, width = frame.labels.shape
    rows, columns = np.mgrid[0:height, 0:width] + 0.5
    return columns, rows


def places(frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The places of a frame's pixels in the world, from depth and camera as documented."""
    view, (columns, rows) = frame.view, grid(frame)
    depth = np.minimum(frame.depth, 1e6)
    across = (columns - view.center) / view.focal * depth
    sine, cosine = math.sin(view.pose.heading), math.cos(view.pose.heading)
    x = view.pose.x + across * cosine + depth * sine
    z = view.pose.z - across * sine + depth * cosine
    return x, view.height - (rows - view.horizon) / view.focal * depth, z


def project(view: View, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sine, cosine = math.sin(view.pose.heading), math.cos(view.pose.heading)
    a = (x - view.pose.x) * cosine - (z - view.pose.z) * sine
    c = (x - view.pose.x) * sine + (z - view.pose.z) * cosine
    return view.center + view.focal * a / c, view.horizon + view.focal * (view.height - y) / c


def test_the_same_frame_has_the_same_bytes_in_any_order_and_process() -> None:
    forward = [digest(frame) for frame in Clip("photo", 3, 2).frames(3)]
    clip = Clip("photo", 3, 2)
    assert [digest(clip.frame(number)) for number in (2, 0, 1)] == [forward[2], forward[0], forward[1]]
    code = (
        "import hashlib; from clouds_deploy.streets import Clip\n"
        "f = Clip('photo', 3, 2).frame(1)\n"
        "o = (f.flow, f.occluded)\n"
        "b = b''.join(x.tobytes() for x in (f.image, f.surface, f.labels, f.instances, f.depth, *o))\n"
        "print(hashlib.sha256(b).hexdigest())\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.strip() == forward[1]


def test_domain_seed_clip_and_frame_each_change_the_picture() -> None:
    asked = [("game", 0, 0, 0), ("photo", 0, 0, 0), ("game", 1, 0, 0), ("game", 0, 1, 0), ("game", 0, 0, 1)]
    assert len({digest(Clip(*who).frame(number)) for *who, number in asked}) == len(asked)


def test_still_images_keep_their_bytes() -> None:
    sums = [int(render(domain, 11, 0).image.astype(np.int64).sum()) for domain in DOMAINS]
    labels = [int((render(domain, 11, 0).labels.astype(np.int64) ** 2).sum()) for domain in DOMAINS]
    assert sums == STILL_SUMS
    assert labels == STILL_LABELS


def test_flow_carries_the_next_frame_onto_this_one(clips: dict[tuple[str, int], list[Frame]]) -> None:
    errors, plain = [], []
    for now, then in pairs(clips):
        columns, rows = grid(now)
        carried = sample(then.surface, columns + now.flow[..., 0], rows + now.flow[..., 1])
        seen = ~now.occluded
        errors.append(np.abs(carried - now.surface).mean(-1)[seen].mean())
        plain.append(np.abs(then.surface.astype(float) - now.surface).mean(-1)[seen].mean())
    assert np.mean(errors) < 1.0
    assert max(errors) < 1.6
    assert np.mean(plain) > 2.5 * np.mean(errors), "the check would pass without flow"


def test_labels_and_instances_follow_the_flow(clips: dict[tuple[str, int], list[Frame]]) -> None:
    for now, then in pairs(clips):
        columns, rows = grid(now)
        x = np.clip((columns + now.flow[..., 0]).astype(int), 0, columns.shape[1] - 1)
        y = np.clip((rows + now.flow[..., 1]).astype(int), 0, columns.shape[0] - 1)
        seen = ~now.occluded
        assert (then.instances[y, x] == now.instances)[seen].mean() > 0.9999
        assert (then.labels[y, x] == now.labels)[seen].mean() > 0.9999


def test_depth_and_camera_give_the_flow_of_what_stands_still(
    clips: dict[tuple[str, int], list[Frame]],
) -> None:
    things = [c.train_id for c in CLASSES if c.thing]
    for now, then in pairs(clips):
        still = ~np.isin(now.labels, things) & np.isfinite(now.depth)
        columns, rows = grid(now)
        seen_columns, seen_rows = project(then.view, *places(now))
        error = np.hypot(seen_columns - columns - now.flow[..., 0], seen_rows - rows - now.flow[..., 1])
        assert error[still & ~now.occluded].max() < 0.5
        # the surface found there is the same place in the world
        inverse = sample(1.0 / then.depth, seen_columns, seen_rows)
        x, _, z = places(now)
        pose = then.view.pose
        ahead = (x - pose.x) * math.sin(pose.heading) + (z - pose.z) * math.cos(pose.heading)
        near = still & ~now.occluded & (now.depth < 60.0)
        assert np.abs(inverse * ahead - 1.0)[near].max() < 0.05


def test_depth_of_the_road_is_that_of_a_plane_under_the_camera(
    clips: dict[tuple[str, int], list[Frame]],
) -> None:
    for frames in clips.values():
        for frame in frames[:2]:
            _, rows = grid(frame)
            view, road = frame.view, frame.labels == NAMES.index("road")
            plane = view.focal * view.height / (rows - view.horizon)
            assert np.allclose(frame.depth[road], plane[road], rtol=1e-3)


def test_things_move_and_keep_their_number(clips: dict[tuple[str, int], list[Frame]]) -> None:
    residual = 0
    for now, then in pairs(clips):
        ids = [set(np.unique(frame.instances)) - {0} for frame in (now, then)]
        assert len(ids[0] & ids[1]) >= len(ids[0]) - 4
        for one in ids[0] & ids[1]:
            assert set(np.unique(now.labels[now.instances == one])) == set(
                np.unique(then.labels[then.instances == one])
            )
        columns, rows = grid(now)
        static = project(then.view, *places(now))
        moving = np.hypot(static[0] - columns - now.flow[..., 0], static[1] - rows - now.flow[..., 1]) > 0.5
        residual += int((moving & (now.instances > 0)).sum())
    assert residual > 2000, "nothing but the camera moves"


def test_truth_has_the_form_that_is_documented(clips: dict[tuple[str, int], list[Frame]]) -> None:
    seen: set[int] = set()
    for frames in clips.values():
        frame = frames[0]
        assert frame.image.dtype == frame.labels.dtype == np.uint8
        assert frame.instances.dtype == np.int32
        assert frame.depth.dtype == frame.flow.dtype == np.float32
        assert frame.occluded.dtype == np.bool_
        assert frame.labels.max() < NUM_CLASSES
        assert frame.depth.min() > 0.2
        assert np.isfinite(frame.flow).all()
        assert frame.occluded.mean() < 0.6
        things = [c.train_id for c in CLASSES if c.thing]
        assert np.array_equal(frame.instances > 0, np.isin(frame.labels, things))
        seen |= set(np.unique(frame.labels).tolist())
    assert len(seen) >= 17


def test_weather_changes_slowly() -> None:
    clip = Clip("imagined", 0, 0)
    means = [clip.frame(number).surface.mean() for number in (0, 1, 100)]
    assert abs(means[1] - means[0]) < 2.0


def test_another_size_shows_the_same_street() -> None:
    small, large = Clip("photo", 0, 1).frame(3), Clip("photo", 0, 1, 256, 512).frame(3)
    assert (small.labels == large.labels[1::2, 1::2]).mean() > 0.93
    assert np.median(np.abs(large.flow[1::2, 1::2] / 2 - small.flow)) < 0.05


def test_a_long_clip_stays_on_the_street() -> None:
    frame = Clip("game", 0, 3).frame(2000)
    assert (frame.labels == NAMES.index("road")).mean() > 0.05
    assert np.abs(frame.flow[frame.instances == 0]).max() < 0.1, "the camera has come to rest"


def test_an_unknown_domain_is_told() -> None:
    with pytest.raises(CloudsError, match="did you mean `photo`"):
        Clip("foto", 0, 0)


def test_speed() -> None:
    best = 0.0
    for attempt in range(3):
        clips = [Clip(domain, 5, attempt) for domain in DOMAINS]
        for clip in clips:
            clip.frame(0)
        start = time.process_time()
        for clip in clips:
            list(clip.frames(5, start=1))
        best = max(best, 15 / (time.process_time() - start))
    assert best > 20.0, f"{best:.0f} frames/s"
