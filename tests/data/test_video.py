from __future__ import annotations

import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.data.video import frame_count, frame_rate, read_frames, write_video
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
