from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.data.video import frame_count, frame_rate, frame_times, read_frames, write_video
from clouds_deploy.errors import CloudsError


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    frames = [np.full((65, 96, 3), value, np.uint8) for value in (30, 120, 220)]
    with write_video(path, Fraction(10)) as writer:
        for frame in frames:
            writer.write(frame)
    assert writer.frames == 3
    back = list(read_frames(path))
    assert [f.shape for f in back] == [(64, 96, 3)] * 3
    for frame, read in zip(frames, back, strict=True):
        assert abs(float(read.mean()) - float(frame.mean())) < 6
    assert frame_rate(path) == 10
    assert frame_count(path) == 3


def test_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "b.mp4").write_bytes(b"no video at all")
    with pytest.raises(CloudsError, match="is not a readable video"):
        list(read_frames(tmp_path / "b.mp4"))
    with pytest.raises(RuntimeError), write_video(tmp_path / "c.mp4", Fraction(10)) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
        raise RuntimeError
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b.mp4"]
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(CloudsError, match="PyAV") as caught:
        list(read_frames(tmp_path / "b.mp4"))
    assert "clouds-deploy[video]" in caught.value.hint


def test_a_video_recorded_sideways_is_turned_upright(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 255  # top left
    with write_video(path, Fraction(10)) as writer:
        writer.write(pixels)
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44  # of the track's header: a quarter turn clockwise
    content[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 64 << 16, 0, 1 << 30)
    path.write_bytes(content)
    (upright,) = read_frames(path)
    assert upright.shape == (96, 64, 3)
    assert upright[:40, 36:].min() > 200  # now top right
    assert upright[56:].max() < 50


def test_a_video_without_frames_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="without frames"), write_video(tmp_path / "a.mp4", Fraction(10)):
        pass
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("across", [1, -1])
@pytest.mark.parametrize("down", [1, -1])
def test_all_eight_orientations(tmp_path: Path, swapped: bool, across: int, down: int) -> None:
    """A point (x, y) is shown at (a x + c y, b x + d y): ISO/IEC 14496-12, matrix {a, b, u, c, d, v, ...}."""
    path = tmp_path / "a.mp4"
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48] = 255  # top left
    with write_video(path, Fraction(10)) as writer:
        writer.write(pixels)
    a, b, c, d = (0, down, across, 0) if swapped else (across, 0, 0, down)
    width, height = (64, 96) if swapped else (96, 64)
    move = (width if across < 0 else 0, height if down < 0 else 0)
    values = [a << 16, b << 16, 0, c << 16, d << 16, 0, move[0] << 16, move[1] << 16, 1 << 30]
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    content[matrix : matrix + 36] = struct.pack(">9i", *values)
    path.write_bytes(content)
    (shown,) = read_frames(path)
    assert shown.shape == (height, width, 3)
    left, top = across > 0, down > 0
    white = shown[:: 1 if top else -1, :: 1 if left else -1][: height // 2 - 4, : width // 2 - 4]
    assert white.min() > 200
    assert np.mean(shown > 128) < 0.3


def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path) -> None:
    times = [Fraction(n, 100) for n in (0, 4, 8, 50, 54, 120)]
    with write_video(tmp_path / "a.mp4", Fraction(10)) as writer:
        for number, time in enumerate(times):
            writer.write(np.full((32, 48, 3), 40 * number, np.uint8), time)
    assert frame_times(tmp_path / "a.mp4") == times
    with write_video(tmp_path / "b.mp4", Fraction(30000, 1001)) as writer:
        for number in range(9):
            writer.write(np.full((32, 48, 3), 20 * number, np.uint8))
    assert frame_times(tmp_path / "b.mp4") is None


def test_a_video_of_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    with write_video(path, Fraction(10)) as writer:
        writer.write(np.zeros((64, 96, 3), np.uint8))
    monkeypatch.setattr("clouds_deploy.data.video.LARGEST_PIXELS", 64 * 96)
    assert next(read_frames(path)).shape == (64, 96, 3)
    monkeypatch.setattr("clouds_deploy.data.video.LARGEST_PIXELS", 64 * 96 - 1)
    with pytest.raises(CloudsError, match="too large: 96x64"):
        next(read_frames(path))
