from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clouds_deploy.data.images import (
    fit_size,
    list_images,
    read_image,
    read_label_ids,
    read_red_ids,
    resize,
    write_png,
)
from clouds_deploy.errors import CloudsError
from tests.data.trees import picture, save, save_16_bit


def test_round_trip(tmp_path: Path) -> None:
    pixels = picture(0)
    write_png(tmp_path / "new" / "a.png", pixels)
    assert np.array_equal(read_image(tmp_path / "new" / "a.png"), pixels)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1", "CMYK"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(picture(0)).convert(mode).save(path)
    assert read_image(path).shape == (32, 48, 3)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 32896, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 0].tolist() == [0, 128, 255]


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(picture(0))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (48, 32, 3)


def test_faults_name_file_and_fix(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.png", picture(0)).read_bytes()
    faults = {
        "truncated.png": (whole[: len(whole) // 2], "damaged"),
        "text.png": (b"hello, I am no image", "not an image"),
        "empty.jpg": (b"", "not an image"),
    }
    for name, (content, message) in faults.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CloudsError, match=message) as caught:
            read_image(tmp_path / name)
        assert name in caught.value.message
        assert caught.value.hint
    with pytest.raises(CloudsError, match="no file"):
        read_image(tmp_path / "nowhere.png")


def test_label_ids(tmp_path: Path) -> None:
    ids = np.arange(24, dtype=np.uint8).reshape(4, 6)
    for array in (ids, ids.astype(np.uint16), ids[..., None].repeat(3, 2)):
        assert np.array_equal(read_label_ids(save(tmp_path / "a.png", array)), ids)
    palette = Image.fromarray(ids)
    palette = palette.convert("P")
    palette.putdata(list(range(24)))
    palette.save(tmp_path / "p.png")
    assert np.array_equal(read_label_ids(tmp_path / "p.png"), ids)
    with pytest.raises(CloudsError, match="colour picture"):
        read_label_ids(save(tmp_path / "c.png", picture(1)))
    with pytest.raises(CloudsError, match=r"outside 0\.\.255"):
        read_label_ids(save(tmp_path / "i.png", np.full((2, 2), 26001, np.uint16)))


def test_a_full_disk_leaves_no_partial_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(CloudsError, match="no space left"):
        write_png(tmp_path / "a.png", picture(0))
    assert not list(tmp_path.iterdir())


def test_listing(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "a.png"):
        save(tmp_path / name, picture(0))
    (tmp_path / "b" / "notes.txt").write_text("x")
    (tmp_path / "b" / "._1.jpg").write_text("x")
    assert [p.name for p in list_images([tmp_path / "b", tmp_path / "a.png"])] == ["1.JPG", "2.png", "a.png"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CloudsError, match="holds no images"):
        list_images([tmp_path / "empty"])
    with pytest.raises(CloudsError, match="no file or folder"):
        list_images([tmp_path / "nowhere"])


def test_floats_of_either_range_are_scaled(tmp_path: Path) -> None:
    for top in (1.0, 255.0):
        Image.fromarray(np.array([[0, top, np.nan]], np.float32)).save(tmp_path / "a.tif")
        assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 255, 0]


def test_a_damaged_exif_block_spoils_no_picture(tmp_path: Path) -> None:
    Image.fromarray(picture(0)).save(
        tmp_path / "a.webp", exif=b"Exif\x00\x00MM(*\x00\x00\x00\x08", lossless=True
    )
    assert np.array_equal(read_image(tmp_path / "a.webp"), picture(0))


def test_label_maps_that_an_optimiser_shrank(tmp_path: Path) -> None:
    ids = np.array([[0, 255, 255, 0]], np.uint8)
    Image.fromarray(ids).convert("1").save(tmp_path / "bit.png")
    Image.fromarray(ids).convert("LA").save(tmp_path / "alpha.png")
    for name in ("bit.png", "alpha.png"):
        assert np.array_equal(read_label_ids(tmp_path / name), ids)


def test_class_ids_in_16_bit_colour_pngs_against_ffmpeg(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    samples = np.random.default_rng(0).integers(0, 65536, (9, 13, 3)).astype(np.uint16)
    samples[..., 0] &= 255
    path = save_16_bit(tmp_path / "a.png", samples)
    with av.open(str(path)) as container:
        theirs = next(container.decode(video=0)).to_ndarray(format="rgb48le")
    assert np.array_equal(theirs, samples)
    assert np.array_equal(read_red_ids(path), theirs[..., 0])


def test_class_ids_in_other_pngs(tmp_path: Path) -> None:
    ids = picture(0)
    assert np.array_equal(read_red_ids(save(tmp_path / "color.png", ids)), ids[..., 0])
    stretched = save_16_bit(tmp_path / "stretched.png", ids.astype(np.uint16) * 257)
    assert np.array_equal(read_red_ids(stretched), ids[..., 0])
    assert np.array_equal(read_red_ids(save(tmp_path / "grey.png", ids[..., 1])), ids[..., 1])
    above = ids.astype(np.uint16)
    above[2, 3, 0] = 256
    with pytest.raises(CloudsError, match="above 255"):
        read_red_ids(save_16_bit(tmp_path / "above.png", above))
    broken = save_16_bit(tmp_path / "broken.png", above)
    broken.write_bytes(broken.read_bytes()[: above.size])
    with pytest.raises(CloudsError, match="damaged"):
        read_red_ids(broken)


def test_sizes_and_resizing() -> None:
    assert fit_size(720, 1283) == (720, 1283)
    assert fit_size(720, 1283, short=1080) == (1080, 1925)  # 1924.5
    assert fit_size(1283, 720, long=1024) == (1024, 575)
    assert fit_size(1, 2000, long=640) == (1, 640)
    assert fit_size(500, 1, short=640, long=2048) == (2048, 4)
    image = picture(0, 30, 50)
    assert resize(image, (30, 50)) is image
    assert resize(image, fit_size(30, 50, short=60)).shape == (60, 100, 3)
    labels = np.repeat(np.array([[0, 255]], np.uint8), 30, 0).repeat(25, 1)
    small = resize(labels, (15, 25), Image.Resampling.NEAREST)
    assert small.shape == (15, 25)
    assert set(np.unique(small)) == {0, 255}
