from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from clouds_deploy.data.clips import CLIPS, Clip, detect_clips, list_clips, street_clips, take
from clouds_deploy.errors import CloudsError
from clouds_deploy.labels import CLASSES, IGNORE, NAMES
from clouds_deploy.streets import Clip as Street
from tests.data.trees import picture, save, train_ids

CITYSCAPES_IDS = np.zeros(256, np.uint8)
CITYSCAPES_IDS[[c.train_id for c in CLASSES]] = [c.cityscapes_id for c in CLASSES]
VIPER = {"road": 3, "sidewalk": 4, "building": 9, "fence": 11, "sky": 2, "car": 24, "person": 20, "train": 29}
VSPW = {
    "others": 0,
    "wall": 1,
    "road": 19,
    "crosswalk": 21,
    "sky": 29,
    "car": 49,
    "traffic_light": 58,
    "sofa": 90,
}


def cityscapes(root: Path) -> None:
    for number in (*range(3, 6), *range(40, 42)):
        save(
            root / f"leftImg8bit_sequence/val/town/town_000000_{number:06d}_leftImg8bit.png", picture(number)
        )
    labels = root / "gtFine/val/town/town_000000_000004_gtFine_labelIds.png"
    save(labels, CITYSCAPES_IDS[train_ids(0)])


def vspw(root: Path) -> None:
    (root / "data").mkdir(parents=True)
    (root / "label_num_dic_final.json").write_text(json.dumps(VSPW))
    (root / "val.txt").write_text("1_a\n2_b\n")
    for video in ("1_a", "2_b", "3_not_val"):
        for number in range(2):
            save(root / f"data/{video}/origin/{number:08d}.jpg", picture(number))
            ids = np.full((32, 48), 19, np.uint8)
            ids[0], ids[1], ids[2], ids[3], ids[4] = 0, 255, 58, 90, 21
            save(root / f"data/{video}/mask/{number:08d}.png", ids)


def viper(root: Path) -> None:
    for sequence in ("001", "002"):
        for number in (0, 10):
            save(root / f"val/img/{sequence}/{sequence}_{number:05d}.jpg", picture(number))
            ids = np.zeros((32, 48), np.uint8)
            for row, value in enumerate(VIPER.values()):
                ids[row] = value
            save(root / f"val/cls/{sequence}/{sequence}_{number:05d}.png", ids)


def kitti_step(root: Path) -> None:
    for sequence, split in (("0000", "train"), ("0002", "val")):
        for number in range(3):
            save(root / f"training/image_02/{sequence}/{number:06d}.png", picture(number))
            labels = np.stack([train_ids(number), *np.zeros((2, 32, 48), np.uint8)], -1)
            save(root / f"panoptic_maps/{split}/{sequence}/{number:06d}.png", labels)


def kitti_odometry(root: Path) -> None:
    for sequence in ("00", "01"):
        for number in range(2):
            save(root / f"sequences/{sequence}/image_2/{number:06d}.png", picture(number))


def kitti_raw(root: Path) -> None:
    for number in range(2):
        save(root / f"2011_09_26_drive_0001_sync/image_02/data/{number:010d}.png", picture(number))


def folder(root: Path) -> None:
    for clip in "ab":
        for number in range(2):
            save(root / f"images/{clip}/{number}.png", picture(number))
            save(root / f"labels/{clip}/{number}.png", train_ids(number))


def opened(clips: list[Clip]) -> list[list[bool]]:
    """Whether each frame of each clip has labels."""
    return [[frame.labels is not None for frame in clip] for clip in clips]


@pytest.mark.parametrize(
    ("build", "name", "split", "expected"),
    [
        (cityscapes, "cityscapes", "val", [[False, True, False], [False, False]]),
        (vspw, "vspw", "val", [[True, True]] * 2),
        (viper, "viper", "val", [[True, True]] * 2),
        (kitti_step, "kitti", "val", [[True] * 3]),
        (kitti_step, "kitti", "all", [[True] * 3] * 2),
        (kitti_odometry, "kitti", "all", [[False] * 2] * 2),
        (kitti_raw, "kitti", "all", [[False] * 2]),
        (folder, "folder", "all", [[True, True]] * 2),
    ],
)
def test_clips_of_every_arrangement(
    tmp_path: Path, build: Callable[[Path], None], name: str, split: str, expected: list[list[bool]]
) -> None:
    build(tmp_path)
    assert detect_clips(tmp_path) == name
    clips = list_clips(name, tmp_path, split)
    assert len({clip.name for clip in clips}) == len(clips)
    assert opened(clips) == expected
    assert [clip.count for clip in clips] == [len(one) for one in expected]
    assert opened(clips) == expected, "a clip can be read again"
    for clip in clips:
        assert all(frame.image.shape == (32, 48, 3) and frame.flow is None for frame in clip)


def test_labels_are_the_right_classes(tmp_path: Path) -> None:
    vspw(tmp_path / "vspw")
    frame = next(iter(list_clips("vspw", tmp_path / "vspw", "val")[0]))
    assert frame.labels is not None
    road, light = NAMES.index("road"), NAMES.index("traffic light")
    assert frame.labels[:6, 0].tolist() == [IGNORE, IGNORE, light, IGNORE, road, road]
    viper(tmp_path / "viper")
    frame = next(iter(list_clips("viper", tmp_path / "viper", "val")[0]))
    assert frame.labels is not None
    assert frame.labels[:9, 0].tolist() == [*(NAMES.index(name) for name in VIPER), IGNORE]
    kitti_step(tmp_path / "kitti")
    frames = list(list_clips("kitti", tmp_path / "kitti", "val")[0])
    assert all(np.array_equal(f.labels, train_ids(n)) for n, f in enumerate(frames))
    cityscapes(tmp_path / "cityscapes")
    frame = list(list_clips("cityscapes", tmp_path / "cityscapes", "val")[0])[1]
    assert np.array_equal(frame.labels, train_ids(0))


def test_an_id_that_vspw_does_not_name_is_told(tmp_path: Path) -> None:
    vspw(tmp_path)
    path = save(tmp_path / "data/1_a/mask/00000000.png", np.full((32, 48), 77, np.uint8))
    with pytest.raises(CloudsError, match="holds label id 77") as told:
        list(list_clips("vspw", tmp_path, "val")[0])
    assert str(path) in told.value.message


def test_video_files_with_and_without_labels(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from clouds_deploy.data.video import write_video

    for name in ("a", "b"):
        with write_video(tmp_path / f"{name}.mp4", Fraction(10)) as writer:
            for number in range(3):
                writer.write(picture(number))
    save(tmp_path / "b" / "000001.png", train_ids(1))
    assert detect_clips(tmp_path) == detect_clips(tmp_path / "a.mp4") == "video"
    assert opened(list_clips("video", tmp_path, "val")) == [[False] * 3, [False, True, False]]
    save(tmp_path / "b" / "000001.png", train_ids(1, 16, 16))
    with pytest.raises(CloudsError, match="size of its video"):
        list(list_clips("video", tmp_path / "b.mp4", "val")[0])


def test_synthetic_clips_bring_their_flow() -> None:
    clips = street_clips("photo", 1, 2, 3, (64, 128))
    frames = list(clips[1])
    street = Street("photo", 1, 1, 64, 128).frame(2)
    assert len(frames) == clips[1].count == 3
    assert np.array_equal(frames[2].image, street.image)
    assert np.array_equal(frames[2].flow, street.flow)
    assert len(list(take(clips[0], 2))) == 2
    with pytest.raises(CloudsError, match="did you mean `photo`"):
        street_clips("foto", 1, 1, 1, (64, 128))


def test_what_is_no_clip_is_told(tmp_path: Path) -> None:
    with pytest.raises(CloudsError, match="holds no clips") as told:
        detect_clips(tmp_path)
    for name, (layout, _) in CLIPS.items():
        assert f"{name}: {layout.expects}" in told.value.hint
    with pytest.raises(CloudsError, match="there is no clip layout `vpsw`"):
        list_clips("vpsw", tmp_path, "val")
    folder(tmp_path)
    with pytest.raises(CloudsError, match="has no split `val`"):
        list_clips("folder", tmp_path, "val")
