"""Formats, sizes and depths of images: read, or named for what they are; large ones with little memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from clouds_deploy.data import images
from clouds_deploy.data.images import fit_size, list_images, measure_image, passed_over, read_image
from clouds_deploy.data.overlay import before_and_after, overlay_with_legend
from clouds_deploy.errors import CloudsError, nearest, shortened
from clouds_deploy.evaluation.metrics import ConfusionMatrix
from clouds_deploy.models.clouds.scores import label_and_trust, labels_at
from tests.data.trees import picture, save_16_bit


@pytest.fixture(autouse=True)
def _tell_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_told", set())


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_few_bits_in_sixteen_are_scaled(
    tmp_path: Path, bits: int, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = picture(0)
    wanted[0, 0] = 255
    deep = wanted.astype(np.uint16) * 257 >> 16 - bits
    save_16_bit(tmp_path / "c.png", deep)
    Image.fromarray(deep[..., 0]).save(tmp_path / "g.png")
    assert np.abs(read_image(tmp_path / "c.png").astype(int) - wanted).max() <= 1
    assert np.abs(read_image(tmp_path / "g.png")[..., 0].astype(int) - wanted[..., 0]).max() <= 1
    assert ("of 12 bits in 16" in capsys.readouterr().err) == (bits == 12)


def test_jfif_and_gif_are_read_and_other_formats_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(picture(0)).save(tmp_path / "a.jfif", format="JPEG")
    frames = [Image.fromarray(picture(n)) for n in range(3)]
    frames[0].save(tmp_path / "b.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(picture(0)).convert("CMYK").save(tmp_path / "c.tif")
    (tmp_path / "d.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    (tmp_path / "e.ts").write_text("export const tile = 1")
    (tmp_path / "f.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    assert [p.name for p in list_images([tmp_path])] == ["a.jfif", "b.gif", "c.tif", "f.jpg"]
    assert [p.name for p in passed_over([tmp_path])] == ["d.HEIC"]
    for name in ("a.jfif", "b.gif", "c.tif"):
        assert read_image(tmp_path / name).shape == (32, 48, 3)
    assert "holds 3 pictures" in capsys.readouterr().err
    for name, kind in (("d.HEIC", "HEIF"), ("f.jpg", "PostScript")):
        with pytest.raises(CloudsError, match=f"is a {kind}") as caught:
            read_image(tmp_path / name)
        assert "convert it" in caught.value.hint


def test_a_tiff_of_floating_point_colours_is_called_unsupported(tmp_path: Path) -> None:
    about = ImageFileDirectory_v2()
    about[339] = 3  # samples are floats
    Image.fromarray(picture(0)).save(tmp_path / "a.tif", tiffinfo=about)
    with pytest.raises(CloudsError, match="not supported"):
        read_image(tmp_path / "a.tif")


def test_more_pixels_than_pillow_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(picture(0, 64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # a quarter of the image's
    assert read_image(tmp_path / "a.png").shape == (64, 64, 3)
    assert measure_image((tmp_path / "a.png").read_bytes(), "a") == (64, 64)
    monkeypatch.setattr(images, "LARGEST_PIXELS", 1000)
    with pytest.raises(CloudsError, match="too large: 64x64"):
        read_image(tmp_path / "a.png")


def test_labels_class_by_class_are_those_of_all_scores() -> None:
    draw = torch.Generator().manual_seed(0)
    for size, full in (((20, 30), (61, 127)), ((40, 50), (33, 21)), ((24, 24), (24, 24))):
        scores = torch.rand(19, *size, generator=draw)
        scores[5:8] = scores[5:8].round()  # ties
        whole = F.interpolate(scores[None], size=full, mode="bilinear", align_corners=False)
        wanted, trust = label_and_trust(whole)
        labels, shares = labels_at(scores, full, shares=True)
        assert torch.equal(labels, wanted[0])
        assert shares is not None
        assert torch.equal(shares, (255 * trust[0]).round().to(torch.uint8))


def test_bytes_a_pixel(tmp_path: Path) -> None:
    """Numpy's share of memory; PyTorch's is two float32 maps, see `labels_at`."""
    side = 1500
    labels = np.zeros((side, side), np.uint8)
    labels[::7] = 3
    image = np.zeros((side, side, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")

    def peak(work: object) -> float:
        tracemalloc.start()
        work()  # type: ignore[operator]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most / side**2

    strips = 16e6 / side**2  # what a strip of a million pixels costs
    assert peak(lambda: read_image(tmp_path / "a.png")) < 3.1 + strips
    assert peak(lambda: ConfusionMatrix().update(labels, labels)) < 1 + 2 * strips
    assert peak(lambda: overlay_with_legend(image, labels)) < 7 + 2 * strips


@pytest.mark.parametrize("shape", [(500, 1), (2000, 1), (1, 2000), (60000, 2), (6000, 2)])
def test_thin_images_stay_small(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    image = np.zeros((*shape, 3), np.uint8)
    for made in (overlay_with_legend(image, labels), before_and_after(image, labels, labels)):
        assert max(made.shape) < 65536
        assert made.size < 80e6
    height, width = fit_size(*shape, short=512)
    assert min(height, width) >= 1
    assert max(height, width) <= 16 * 512


def test_messages_are_bounded() -> None:
    error = CloudsError(", ".join(f"layer.{n}.weight" for n in range(4000)), "x" * 5000)
    assert len(str(error)) < 4000
    assert "characters left out" in str(error)
    assert shortened([f"n{n}" for n in range(12)], 10).endswith("n9 and 2 more")
    assert len(nearest("zzz", [f"word-{n}" for n in range(500)])) < 600
