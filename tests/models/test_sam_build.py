from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from clouds_deploy.errors import CloudsError
from clouds_deploy.models.sam import build as module
from clouds_deploy.models.sam.assembly import VIT, build_vit_sam
from clouds_deploy.models.sam.build import NAMES, OFFICIAL, build, load_sam
from clouds_deploy.models.sam.decoder import SamDecoder
from clouds_deploy.models.sam.encoder import SamEncoder
from clouds_deploy.models.sam.weights import fill
from tests.models.sam_cases import SIZES, small_sam


def state() -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in small_sam("sam_tiny").state_dict().items()}


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_file_is_loaded_whole(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"mine{suffix}"
    if suffix == ".safetensors":
        save_file(state(), path)
    else:
        torch.save(state(), path)
    loaded = load_sam("sam_tiny", path)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.source == f"file {path.name}"
    assert loaded.describe()["sha256"] == loaded.sha256
    for name, tensor in loaded.sam.state_dict().items():
        assert torch.equal(tensor, state()[name]), name
    everything = [*loaded.sam.parameters(), *loaded.sam.buffers()]
    assert {t.device.type for t in everything} == {"cpu"}
    assert not any(t.requires_grad for t in everything)
    assert not loaded.sam.training


@pytest.mark.parametrize("name", ["sam_tiny", "mobile_sam"])
def test_a_loaded_model_computes_what_the_saved_one_does(tmp_path: Path, name: str) -> None:
    """Buffers that no file holds are there too."""
    sam = small_sam(name)
    side = sam.image_encoder.img_size
    path = tmp_path / "mine.safetensors"
    save_file(sam.state_dict(), path)
    loaded = load_sam(f"{name}@{side}", path)
    image = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)
    size = torch.tensor([[side, side - 9]], dtype=torch.int32)
    prompt = torch.tensor([0]), torch.tensor([[[5.0, 6.0]]]), torch.tensor([[1.0]])
    with torch.inference_mode():
        features = [SamEncoder(s)(image, size) for s in (sam, loaded.sam)]
        masks = [SamDecoder(s)(features[0], *prompt)[0] for s in (sam, loaded.sam)]
    for one, other in (features, masks):  # convolutions may sum in another order for memory aligned otherwise
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    path = tmp_path / "half.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state().items()}, path)
    sam = load_sam("sam_tiny", path).sam
    assert {p.dtype for p in sam.parameters()} == {torch.float32}


def test_every_fault_is_named(tmp_path: Path) -> None:
    broken = state()
    gone = [name for name in broken if "iou_token" in name or "no_mask_embed" in name]
    for name in gone:
        del broken[name]
    broken["author"] = torch.zeros(3)
    broken["teacher.weight"] = torch.zeros(3)
    bent = [name for name in broken if "norm_final_attn" in name]
    for name in bent:
        broken[name] = torch.zeros(5)
    path = tmp_path / "broken.pth"
    torch.save(broken, path)
    with pytest.raises(CloudsError) as caught:
        load_sam("sam_tiny", path)
    message = caught.value.message
    assert str(path) in message
    assert "2 missing" in message
    assert "2 unexpected" in message
    assert "2 of another shape" in message
    for name in (*gone, *bent, "author", "teacher.weight"):
        assert f"\n  {name}" in message
    assert "[5], not [96]" in message


def test_another_models_file_is_recognised(tmp_path: Path) -> None:
    path = tmp_path / "sam.pth"
    torch.save(small_sam("mobile_sam").state_dict(), path)
    with pytest.raises(CloudsError, match="weights of `mobile_sam`"):
        load_sam("vit_b", path)
    torch.save({"image_encoder.blocks.0.norm1.weight": torch.ones(1024)}, path)
    with pytest.raises(CloudsError, match="weights of `vit_l`"):
        load_sam("vit_b", path)


def test_weights_of_another_size_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "vit.safetensors"
    save_file(small_sam("vit_b").state_dict(), path)
    other = build_vit_sam(replace(VIT["vit_b"], depth=3, global_blocks=(1,)), SIZES["vit_b"] + 16)
    with pytest.raises(CloudsError, match="of another shape"):
        fill(other, path)


def test_the_tiny_one_sees_images_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "tiny.safetensors"
    save_file(state(), path)
    loaded = load_sam("sam_tiny@320", path)
    assert (loaded.name, loaded.image_size) == ("sam_tiny", 320)


@pytest.mark.parametrize(
    "name", ["sam_tiny@240", "sam_tiny@0", "sam_tiny@", "sam_tiny@-64", "vit_b@1e3", "vit_b@100"]
)
def test_sizes_that_a_model_cannot_see(name: str) -> None:
    with pytest.raises(CloudsError, match=f"`{name}` names no input size") as caught:
        load_sam(name, "random")
    assert caught.value.hint.endswith("sam_tiny@384" if "tiny" in name else "vit_b@1024")


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "exploded").touch, ())

    path = tmp_path / "bomb.pth"
    torch.save({"image_encoder.pos_embed": Bomb()}, path)
    with pytest.raises(CloudsError):
        load_sam("sam_tiny", path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", list(OFFICIAL))
def test_official_weights_are_not_invented(name: str) -> None:
    with pytest.raises(CloudsError) as caught:
        load_sam(name)
    assert OFFICIAL[name].file in str(caught.value)
    assert "https://" in caught.value.hint
    assert "random" in caught.value.hint


def test_shipped_weights_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "shipped_weights", lambda: tmp_path / "sam_tiny.safetensors")
    with pytest.raises(CloudsError, match=r"sam_tiny\.safetensors is missing"):
        load_sam("sam_tiny")
    save_file(state(), tmp_path / "sam_tiny.safetensors")
    assert load_sam("sam_tiny").source == "package sam_tiny.safetensors"


def test_random_weights_are_announced(capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_sam("sam_tiny", "random")
    assert "random weights" in capsys.readouterr().err
    assert (loaded.source, loaded.sha256, loaded.image_size) == ("random", None, 768)


def test_names_and_sizes() -> None:
    with pytest.raises(CloudsError, match="there is no SAM `vit_x`"):
        load_sam("vit_x", "random")
    with pytest.raises(CloudsError, match="there is no SAM `vit_x`"):
        load_sam("vit_x@64", "random")
    with pytest.raises(CloudsError, match="there is no weight file"):
        load_sam("vit_b", "nowhere.pth")
    assert load_sam("mobile_sam@64", "random").image_size == 64


@pytest.mark.parametrize("name", NAMES)
def test_structures_are_the_official_ones(name: str) -> None:
    from clouds_deploy.models.libraries import library

    library("segment_anything")
    with torch.device("meta"):
        ours = build(name)
        if name.startswith("vit_"):
            from segment_anything import sam_model_registry

            theirs = sam_model_registry[name]()
            assert {k: v.shape for k, v in ours.state_dict().items()} == {
                k: v.shape for k, v in theirs.state_dict().items()
            }
            assert str(ours) == str(theirs)
    assert ours.mask_threshold == 0.0
