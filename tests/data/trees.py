"""Small datasets on disk, made by the tests that read them: every release's tree in miniature."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from clouds_deploy.data.layouts.mapillary import V1_CLASSES
from clouds_deploy.labels import CLASSES, NAMES

SYNTHIA = {
    3: 0,
    4: 1,
    2: 2,
    21: 3,
    5: 4,
    7: 5,
    15: 6,
    9: 7,
    6: 8,
    16: 9,
    1: 10,
    10: 11,
    17: 12,
    8: 13,
    18: 14,
}
SYNTHIA |= {19: 15, 20: 16, 12: 17, 11: 18}
MAPILLARY_V1 = {13: 0, 24: 0, 41: 0, 2: 1, 15: 1, 17: 2, 6: 3, 3: 4, 45: 5, 47: 5, 48: 6, 50: 7, 30: 8, 29: 9}
MAPILLARY_V1 |= {27: 10, 19: 11, 20: 12, 21: 12, 22: 12, 55: 13, 61: 14, 54: 15, 58: 16, 57: 17, 52: 18}
"""Raw id -> train id, typed from docs/explanation/method.md 4 once more."""


def picture(seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def train_ids(seed: int, height: int = 32, width: int = 48) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 19, (height // 8, width // 8), dtype=np.uint8)
    labels = blocks.repeat(8, 0).repeat(8, 1)
    labels[:2] = 255
    return labels


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def encode(labels: np.ndarray, ids: dict[int, int], ignored: int = 0) -> np.ndarray:
    """Turn train ids back into raw ones: the first raw id of each class, `ignored` for 255."""
    table = np.full(256, ignored, np.uint8)
    for raw, train_id in reversed(ids.items()):
        table[train_id] = raw
    return table[labels]


def save_palette(path: Path, ids: np.ndarray) -> Path:
    """Write ids with the palette of GTA5's labels, which is Cityscapes'."""
    image = Image.fromarray(ids).convert("L")
    colors = {c.cityscapes_id: c.color for c in CLASSES}
    image.putpalette([value for index in range(256) for value in colors.get(index, (0, 0, 0))])
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def save_16_bit(path: Path, samples: np.ndarray) -> Path:
    """Write (H, W, 3) uint16 as a PNG, by the format's own words: Pillow cannot."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = samples.shape
    rows = samples.astype(">u2").reshape(height, -1).view(np.uint8)
    left = np.concatenate(
        [np.zeros((height, 6), np.uint8), rows[:, :-6]], 1
    )  # filter 1: less the pixel before
    data = b"".join(b"\x01" + row.tobytes() for row in rows - left)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )
    return path


def save_synthia(path: Path, ids: np.ndarray) -> Path:
    """Write class ids as SYNTHIA does: beside them large instance ids, and a third channel of zeros."""
    instances = np.random.default_rng(0).integers(0, 65536, ids.shape)
    return save_16_bit(path, np.stack([ids, instances, np.zeros_like(instances)], -1).astype(np.uint16))


def cityscapes(root: Path, count: int = 3, ids: bool = False) -> Path:
    """A miniature of the official tree; `ids` writes labelIds instead of labelTrainIds."""
    raw = {c.cityscapes_id: c.train_id for c in CLASSES}
    for split in ("train", "val"):
        for number in range(count):
            name = f"town_{number:06d}_000019"
            save(root / "leftImg8bit" / split / "town" / f"{name}_leftImg8bit.png", picture(number))
            labels = train_ids(number)
            stem = root / "gtFine" / split / "town" / f"{name}_gtFine"
            if ids:
                save(Path(f"{stem}_labelIds.png"), encode(labels, raw))
                save(Path(f"{stem}_color.png"), picture(number))
                save(Path(f"{stem}_instanceIds.png"), picture(number)[..., 0].astype(np.uint16) * 257)
            else:
                save(Path(f"{stem}_labelTrainIds.png"), labels)
    return root


def folder(root: Path, count: int = 3, split: str = "") -> Path:
    """A miniature of the plain layout."""
    for number in range(count):
        save(root / split / "images" / f"a{number}.png", picture(number))
        save(root / split / "labels" / f"a{number}_labelTrainIds.png", train_ids(number))
    return root


def gta5(root: Path, count: int = 3) -> Path:
    raw = {c.cityscapes_id: c.train_id for c in CLASSES}
    for number in range(count):
        save(root / "images" / f"{number + 1:05d}.png", picture(number))
        save_palette(root / "labels" / f"{number + 1:05d}.png", encode(train_ids(number), raw, 34))
    return root


def synthia(root: Path, count: int = 3) -> Path:
    for number in range(count):
        save(root / "RGB" / f"{number:07d}.png", picture(number))
        save_synthia(root / "GT" / "LABELS" / f"{number:07d}.png", encode(train_ids(number), SYNTHIA))
        save(root / "GT" / "COLOR" / f"{number:07d}.png", picture(number))
    return root


def bdd100k(root: Path, count: int = 3) -> Path:
    for split in ("train", "val"):
        for number in range(count):
            save(root / "bdd100k" / "images" / "10k" / split / f"0a{number}-b1.jpg", picture(number))
            labels = root / "bdd100k" / "labels" / "sem_seg"
            save(labels / "masks" / split / f"0a{number}-b1.png", train_ids(number))
            save(labels / "colormaps" / split / f"0a{number}-b1.png", picture(number))
    save(root / "bdd100k" / "images" / "10k" / "test" / "ff.jpg", picture(9))
    return root


def bdd100k_older(root: Path, count: int = 3) -> Path:
    for split in ("train", "val"):
        for number in range(count):
            seg = root / "bdd100k" / "seg"
            save(seg / "images" / split / f"0a{number}-b1.jpg", picture(number))
            save(seg / "labels" / split / f"0a{number}-b1_train_id.png", train_ids(number))
            save(seg / "color_labels" / split / f"0a{number}-b1_train_color.png", picture(number))
    return root


def mapillary(root: Path, count: int = 3, labels: str = "labels") -> Path:
    """A miniature of the v1.2 release; `labels` is where a split keeps its label maps."""
    for split in ("training", "validation"):
        for number in range(count):
            save(root / split / "images" / f"-x{number}_Y.jpg", picture(number))
            ids = encode(train_ids(number), MAPILLARY_V1, 65)
            save_palette(root / split / labels / f"-x{number}_Y.png", ids)
            save(root / split / labels.replace("labels", "instances") / f"-x{number}_Y.png", picture(number))
    save(root / "testing" / "images" / "z.jpg", picture(9))
    return root


def mapillary_v2(root: Path, count: int = 3) -> Path:
    """A miniature of the v2.0 release, in which every class sits at another place than in the real one."""
    names = ["object--street-light", *sorted(V1_CLASSES, reverse=True)]
    finer = {"human--person": "human--person--individual", "marking--general": "marking--discrete--stop-line"}
    finer["object--traffic-light"] = "object--traffic-light--cyclists"
    names = [finer.get(name, name) for name in names]
    names += [f"object--{number}" for number in range(124 - len(names))]
    config = {"labels": [{"name": name, "readable": name, "evaluate": True} for name in names]}
    root.mkdir(parents=True, exist_ok=True)
    (root / "config_v2.0.json").write_text(json.dumps(config), encoding="utf-8")
    ids = {names.index(finer.get(n, n)): NAMES.index(known) for n, (_, known) in V1_CLASSES.items()}
    for split in ("training", "validation"):
        for number in range(count):
            save(root / split / "images" / f"-x{number}_Y.jpg", picture(number))
            save_palette(
                root / split / "v2.0" / "labels" / f"-x{number}_Y.png", encode(train_ids(number), ids)
            )
    return root


def acdc(root: Path, count: int = 3) -> Path:
    for condition in ("fog", "night"):
        for split in ("train", "val"):
            for number in range(count):
                part = Path(condition) / split / f"GOPR{number // 2:04d}" / f"GOPR_frame_{number:06d}"
                save(root / "rgb_anon" / f"{part}_rgb_anon.png", picture(number))
                save(root / "gt" / f"{part}_gt_labelTrainIds.png", train_ids(number))
                save(root / "gt" / f"{part}_gt_labelColor.png", picture(number))
        reference = Path(condition) / "val_ref" / "GOPR0000" / "GOPR_frame_000000"
        save(root / "rgb_anon" / f"{reference}_rgb_ref_anon.png", picture(0))
    return root


@dataclass(frozen=True)
class Tree:
    """A release in miniature.

    Attributes:
        layout: What reads it.
        build: (root, count) -> root, with `count` labelled images in each folder; their labels are
            `train_ids(0)`, `train_ids(1)` and so on.
        last_id: The highest raw id that there is.
        save_ids: Writes a label map as the release does.
        splits: What its layout lists.
    """

    layout: str
    build: Callable[..., Path]
    last_id: int
    save_ids: Callable[[Path, np.ndarray], Path] = save
    splits: tuple[str, ...] = ("train", "val")


_ONE_SET = ("all", "train", "val")
TREES = {
    "cityscapes": Tree("cityscapes", cityscapes, 18),
    "cityscapes-ids": Tree("cityscapes", lambda root, count: cityscapes(root, count, ids=True), 33),
    "gta5": Tree("gta5", gta5, 34, save_palette, _ONE_SET),
    "synthia": Tree("synthia", synthia, 22, save_synthia, _ONE_SET),
    "bdd100k": Tree("bdd100k", bdd100k, 18, splits=("test", "train", "val")),
    "bdd100k-older": Tree("bdd100k", bdd100k_older, 18),
    "mapillary": Tree("mapillary", mapillary, 65, save_palette, ("train", "val", "test")),
    "mapillary-in-v2": Tree(
        "mapillary",
        lambda root, count: mapillary(root, count, "v1.2/labels"),
        65,
        save_palette,
        ("train", "val", "test"),
    ),
    "mapillary-v2": Tree("mapillary-v2", mapillary_v2, 123, save_palette),
    "acdc": Tree(
        "acdc", acdc, 18, splits=("train", "val", "train-fog", "train-night", "val-fog", "val-night")
    ),
    "folder": Tree("folder", folder, 18, splits=_ONE_SET),
}
