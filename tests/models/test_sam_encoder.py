from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clouds_deploy.models.sam.encoder import SamEncoder
from clouds_deploy.models.sam.layer_norm import channels_first_norm
from clouds_deploy.models.sam.vit_encoder import AttentionForm, VitBlock, VitEncoder
from clouds_deploy.models.sam.windows import Windows
from tests.models.sam_cases import SIZES, small_sam

FORMS: tuple[AttentionForm, ...] = ("bias", "channels")


def pixels(name: str, batch: int = 2) -> torch.Tensor:
    side = SIZES[name]
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("height", "width", "window"), [(10, 10, 14), (9, 20, 7), (16, 16, 8)])
def test_windows_are_the_official_ones(height: int, width: int, window: int) -> None:
    from segment_anything.modeling.image_encoder import window_partition, window_unpartition

    grid = torch.randn(2, height, width, 5)
    official, padded = window_partition(grid, window)
    windows = Windows(height, width, window)
    tokens = F.pad(grid.flatten(1, 2), (0, 0, 0, 1))  # zeros are what the official code pads with
    cut = windows.cut(tokens)
    assert windows.padded == (padded != (height, width))
    assert torch.equal(cut, official.flatten(1, 2))
    back = windows.join(cut).view(2, height, width, 5)
    assert torch.equal(back, window_unpartition(official, window, padded, (height, width)))


def test_layer_norm_is_the_official_one() -> None:
    from segment_anything.modeling.common import LayerNorm2d

    norm = LayerNorm2d(6).double()
    with torch.no_grad():
        norm.weight.normal_()
        norm.bias.normal_()
        x = torch.randn(2, 6, 3, 4, dtype=torch.float64)
        torch.testing.assert_close(channels_first_norm(norm, x), norm(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["vit_b", "vit_h"])
@pytest.mark.parametrize("window_form", FORMS)
@pytest.mark.parametrize("global_form", FORMS)
def test_encoder_equals_the_official_one(
    name: str, window_form: AttentionForm, global_form: AttentionForm
) -> None:
    official = small_sam(name).image_encoder
    ours = VitEncoder(official, window_form=window_form, global_form=global_form)
    x = pixels(name)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), official(x), rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("window", [0, 14])
def test_a_block_is_exact(form: AttentionForm, window: int) -> None:
    """In double precision nothing but rounding is left, and windows are padded."""
    from segment_anything.modeling.image_encoder import Block

    torch.manual_seed(0)
    block = Block(32, 4, use_rel_pos=True, window_size=window, input_size=(10, 10)).double()
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.normal_(std=0.5)
        x = torch.randn(2, 10, 10, 32, dtype=torch.float64)
        ours = VitBlock(block, 10, form).double()(x.flatten(1, 2)).view(x.shape)
        torch.testing.assert_close(ours, block(x), rtol=0, atol=1e-10)


def test_relative_positions_matter_here() -> None:
    """A control: without them the comparison above would fail."""
    official = small_sam("vit_b").image_encoder
    x = pixels("vit_b", 1)
    ours = VitEncoder(official, window_form="bias", global_form="channels")
    tables = [t for block in official.blocks for t in (block.attn.rel_pos_h, block.attn.rel_pos_w)]
    kept = [table.clone() for table in tables]
    with torch.inference_mode():
        expected = official(x)
        try:
            for table in tables:
                table.zero_()
            assert (ours(x) - expected).abs().max() > 0.1
        finally:
            for table, was in zip(tables, kept, strict=True):
                table.copy_(was)


@pytest.mark.parametrize("name", ["vit_b", "mobile_sam"])
def test_padding_is_not_seen_and_images_do_not_mix(name: str) -> None:
    side = SIZES[name]
    encoder = SamEncoder(small_sam(name))
    image = torch.randint(0, 256, (2, side, side, 3), dtype=torch.uint8)
    size = torch.tensor([[side, side - 40], [side - 31, side]], dtype=torch.int32)
    other = image.clone()
    other[0, :, side - 40 :] = 7
    other[1, side - 31 :] = 250
    with torch.inference_mode():
        together = encoder(image, size)
        assert torch.equal(encoder(other, size), together)
        for i in range(2):
            torch.testing.assert_close(
                encoder(image[i : i + 1], size[i : i + 1])[0], together[i], rtol=0, atol=1e-4
            )
    assert together.dtype == torch.float32
    assert together.shape == (2, 256, side // 16, side // 16)
