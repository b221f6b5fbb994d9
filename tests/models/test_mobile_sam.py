from __future__ import annotations

import re

import pytest
import torch

from clouds_deploy.models.sam.build import build
from clouds_deploy.models.sam.encoder import SamEncoder
from clouds_deploy.models.sam.tiny_vit import TinyViT
from tests.models.mobile_sam_layout import layout
from tests.models.sam_cases import small_sam


@pytest.fixture(scope="module")
def sam() -> torch.nn.Module:
    with torch.device("meta"):
        made: torch.nn.Module = build("mobile_sam")
    return made


def test_layout_is_the_published_one(sam: torch.nn.Module) -> None:
    own = {name: tuple(tensor.shape) for name, tensor in sam.state_dict().items()}
    assert len(own) == 439
    assert own == layout()


def test_parameters_are_as_many(sam: torch.nn.Module) -> None:
    assert sum(p.numel() for p in sam.parameters()) == 10_130_092
    assert sum(p.numel() for p in sam.image_encoder.parameters()) == 6_065_532


def test_layout_does_not_depend_on_the_image_size(sam: torch.nn.Module) -> None:
    assert {k: v.shape for k, v in small_sam("mobile_sam").state_dict().items()} == {
        k: v.shape for k, v in sam.state_dict().items()
    }


def to_timm(name: str) -> str:
    """Say how timm calls one of our tensors; it counts a reduction to the stage after it."""
    name = re.sub(r"^patch_embed\.seq\.(0|2)\.", lambda m: f"patch_embed.conv{1 + int(m[1]) // 2}.", name)
    name = re.sub(r"^layers\.(\d)\.downsample", lambda m: f"stages.{int(m[1]) + 1}.downsample", name)
    name = name.replace("layers.", "stages.").replace("norm_head.", "head.norm.")
    return name.replace(".c.", ".conv.")


def test_tiny_vit_equals_timms() -> None:
    """timm's TinyViT, with the last reduction's stride of MobileSAM, as far as SAM's neck."""
    import timm

    ours = small_sam("mobile_sam").image_encoder
    theirs = timm.create_model("tiny_vit_5m_224", pretrained=False, num_classes=0).eval()
    theirs.stages[3].downsample.conv2.conv.stride = (1, 1)
    state = {
        to_timm(name): tensor
        for name, tensor in ours.state_dict().items()
        if not name.startswith(("neck.", "head."))
    }
    theirs.load_state_dict(state)
    x = torch.randn(2, 3, 160, 160)
    with torch.inference_mode():
        features = ours.patch_embed(x)
        for stage in ours.layers:
            features = stage(features)
        wanted = theirs.stages(theirs.patch_embed(x))
        torch.testing.assert_close(features, wanted, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours(x), ours.neck(wanted), rtol=0, atol=1e-4)
    assert wanted.abs().max() > 1


def test_encoder_takes_it() -> None:
    encoder = SamEncoder(small_sam("mobile_sam"))
    assert isinstance(encoder.encoder, TinyViT)
    with torch.inference_mode():
        out = encoder(
            torch.zeros(1, 160, 160, 3, dtype=torch.uint8), torch.tensor([[160, 90]], dtype=torch.int32)
        )
    assert out.shape == (1, 256, 10, 10)
