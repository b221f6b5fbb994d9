from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import default_collate

from clouds_deploy.config.sam import SamRecipe
from clouds_deploy.config.shipped import load_sam_recipe
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.store import read_tensors
from clouds_deploy.models.sam.build import load_sam
from clouds_deploy.models.sam.lite_encoder import STRIDE
from clouds_deploy.training.sam import loop
from clouds_deploy.training.sam.dense import DenseHead
from clouds_deploy.training.sam.loop import WEIGHTS, flushed_denormals, train_sam
from clouds_deploy.training.sam.losses import mask_losses
from clouds_deploy.training.sam.scenes import SamScenes
from clouds_deploy.training.schedule import learning_rate


def recipe(*overrides: str) -> SamRecipe:
    small = (
        "model.image_size=64", "model.prompt_width=32", "model.decoder_feedforward=32",
        "data.size=64", "data.height=64", "data.masks=2", "data.smallest=0.01", "train.steps=4",
        "train.batch_size=2",
        "train.warmup_steps=1", "train.checkpoint_every=2", "train.log_every=1", "train.eval_every=0",
        "train.eval_scenes=2", "train.workers=0",
    )  # fmt: skip
    return load_sam_recipe("sam_tiny", (*small, *overrides))


def test_denormal_numbers_become_zero_for_a_while() -> None:
    tiny = torch.tensor([1e-30])
    with flushed_denormals():
        assert (tiny * 1e-9).item() == 0
    assert (tiny * 1e-9).item() != 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sam") / "run"
    train_sam(recipe(), out)
    return out


def test_a_run_holds_what_it_should(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["steps"] == 4
    assert {"iou_1", "iou_5", "clicks_5", "instances", "steps"} <= set(manifest["outcome"])
    weights = read_tensors(finished / WEIGHTS)
    assert not any("dense" in name for name in weights)
    assert not (finished / "checkpoints").exists()
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "dice" in line] == [1, 2, 3, 4]
    assert {"focal", "dice", "iou_error", "dense", "gradient_norm"} <= set(lines[0])
    assert train_sam(recipe(), finished, resume=True)["images_per_second"] is None


@pytest.mark.parametrize("damaged", ["", "weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_killed_run_ends_with_the_same_bytes(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    damaged: str,
) -> None:
    """It goes on from the newest checkpoint; if a bit of that was flipped, from the one before."""
    real = loop.train_step

    def killed(*given: Any) -> Any:
        if given[-1] == 3:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(loop, "train_step", killed)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_sam(recipe(), out)
    monkeypatch.setattr(loop, "train_step", real)
    with pytest.raises(CloudsError, match=r"started with train\.lr=0\.0008, not 1e-05"):
        train_sam(recipe("train.lr=1e-5"), out, resume=True)
    if damaged:
        file = out / "checkpoints" / "step_00000002" / damaged
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    train_sam(recipe(), out, resume=True)
    shown = capfd.readouterr().err
    assert ("step_00000002 is damaged" in shown) == bool(damaged)
    assert f"going on from step {0 if damaged else 2} of 4" in shown
    assert (out / WEIGHTS).read_bytes() == (finished / WEIGHTS).read_bytes()
    assert (out / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()


def test_starting_from_another_run(finished: Path, tmp_path: Path) -> None:
    still = recipe(
        "train.steps=1", "train.lr=1e-30", "train.weight_decay=0", "model.image_size=128", "data.size=128"
    )
    train_sam(still, tmp_path / "larger", init=finished)
    mine, theirs = read_tensors(tmp_path / "larger" / WEIGHTS), read_tensors(finished / WEIGHTS)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert torch.allclose(mine[name], value, atol=1e-6), name
    train_sam(still, tmp_path / "file", init=finished / WEIGHTS)
    assert (tmp_path / "file" / WEIGHTS).read_bytes() == (tmp_path / "larger" / WEIGHTS).read_bytes()
    with pytest.raises(CloudsError, match=r"there is no .*nowhere.*\n.*or its weights"):
        train_sam(still, tmp_path / "none", init=tmp_path / "nowhere")
    with pytest.raises(CloudsError, match="--resume and --init exclude each other"):
        train_sam(still, tmp_path / "none", init=finished, resume=True)
    (tmp_path / "broken").write_bytes(b"not weights")
    with pytest.raises(CloudsError, match="broken is missing or no readable safetensors"):
        train_sam(still, tmp_path / "none", init=tmp_path / "broken")
    assert not (tmp_path / "none").exists()
    with pytest.raises(CloudsError, match="another architecture"):
        train_sam(recipe("model.prompt_width=64"), tmp_path / "wider", init=finished)
    assert not (tmp_path / "wider").exists()
    with pytest.raises(CloudsError, match="exists already"):
        train_sam(recipe(), finished)
    with pytest.raises(CloudsError, match="no run to resume"):
        train_sam(recipe(), tmp_path / "nothing", resume=True)


def test_a_frozen_trunk_stays(tmp_path: Path) -> None:
    train_sam(recipe("train.steps=2", "train.trunk_lr=0"), tmp_path / "run")
    imagenet = loop.build_sam_tiny(recipe().model)
    loop.initialize(imagenet)
    weights = read_tensors(tmp_path / "run" / WEIGHTS)
    for name, value in imagenet.state_dict().items():
        if ".trunk." in name:
            assert torch.equal(weights[name], value), name
    assert not torch.equal(
        weights["image_encoder.lateral.0.weight"], imagenet.state_dict()["image_encoder.lateral.0.weight"]
    )


@pytest.mark.parametrize("stages", [0, 1, 3])
def test_frozen_stages_stay_and_the_others_learn(tmp_path: Path, stages: int) -> None:
    train_sam(recipe("train.steps=2", f"train.frozen_stages={stages}"), tmp_path / "run")
    imagenet = loop.build_sam_tiny(recipe().model)
    loop.initialize(imagenet)
    weights = read_tensors(tmp_path / "run" / WEIGHTS)
    for name, value in imagenet.state_dict().items():
        if ".trunk." in name and "running" not in name and "tracked" not in name:
            part = name.split(".trunk.")[1].split(".")
            frozen = stages > (int(part[1]) if part[0] == "blocks" else 0)
            assert torch.equal(weights[name], value) == frozen, name


@pytest.mark.parametrize(
    ("kind", "masks", "shape"),
    [("frames=1", 2, (64, 64)), ("frames=0", 8, (24, 24)), ("wide=1", 2, (32, 48))],
)
def test_windows_and_whole_squares_teach_the_same_weights(
    kind: str, masks: int, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the dense losses, all that learns does so from masks."""
    made = recipe(
        "train.frames=0", "train.wide=0", f"train.{kind}", "train.window=24", "train.dense_weight=0",
        "train.corrections=1", "data.masks=8",
    )  # fmt: skip
    asked = []
    first = loop.first_prompts
    monkeypatch.setattr(loop, "first_prompts", lambda *given: asked.append(given[0].shape) or first(*given))
    pupil = torch.nn.ModuleDict({"sam": loop.build_sam_tiny(made.model), "dense": DenseHead(32, STRIDE)})
    loop.initialize(pupil["sam"])
    pupil.train()
    scenes = SamScenes(made.data, 64, 64, 0)
    batch = default_collate([scenes[0], scenes[1]])
    losses, norm = loop.train_step(pupil, loop.make_optimizers(pupil, made.train), batch, made, 0)
    assert asked == [(2 * masks, *shape)]
    assert losses[:3].min() > 0
    assert losses[3] == 0
    assert norm > 0
    for part in ("output_upscaling.0", "transformer.layers.0.cross_attn_token_to_image.v_proj"):
        assert pupil["sam"].mask_decoder.get_submodule(part).weight.grad.abs().max() > 0
    assert pupil["sam"].prompt_encoder.mask_downscaling[0].weight.grad.abs().max() > 0
    assert pupil["sam"].image_encoder.trunk.conv_stem.weight.grad.abs().max() > 0
    assert pupil["dense"].project.weight.grad is None


@pytest.mark.parametrize("head_steps", [0, 1])
def test_a_new_dense_layer_may_learn_alone_at_first(head_steps: int) -> None:
    made = recipe("train.frames=0", "train.clip_norm=1e9", f"train.head_steps={head_steps}")
    scenes = SamScenes(made.data, 64, 64, 0)
    batch = default_collate([scenes[0], scenes[1]])
    gradients = []
    for gain in (1.0, -1.0):
        torch.manual_seed(0)
        pupil = torch.nn.ModuleDict({"sam": loop.build_sam_tiny(made.model), "dense": DenseHead(32, STRIDE)})
        loop.initialize(pupil["sam"])
        with torch.no_grad():
            pupil["dense"].project.weight.mul_(gain)
        pupil.train()
        loop.train_step(pupil, loop.make_optimizers(pupil, made.train), batch, made, 0)
        assert pupil["dense"].project.weight.grad.abs().max() > 0
        gradients.append(pupil["sam"].image_encoder.neck[0].weight.grad)
    assert torch.allclose(*gradients) == (head_steps == 1)


@pytest.mark.parametrize(
    ("labels", "ambiguous"),
    [
        ((1.0, -1.0), True),
        ((2.0, 3.0), True),
        ((1.0, 1.0, -1.0), True),
        ((1.0, 1.0, 1.0, -1.0), False),
        ((1.0, 2.0, 3.0), False),
    ],
)
def test_three_points_are_not_ambiguous(
    labels: tuple[float, ...], ambiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recipe("train.frames=1", "train.wide=0", "train.corrections=0")
    pupil = torch.nn.ModuleDict({"sam": loop.build_sam_tiny(made.model), "dense": DenseHead(32, STRIDE)})
    asked = []
    monkeypatch.setattr(
        loop,
        "first_prompts",
        lambda masks, *_: (torch.ones(len(masks), len(labels), 2), torch.tensor([labels] * len(masks))),
    )
    monkeypatch.setattr(
        loop, "_losses", lambda _: lambda *given: asked.append(given[-1]) or mask_losses(*given)
    )
    scenes = SamScenes(made.data, 64, 64, 0)
    batch = default_collate([scenes[0], scenes[1]])
    loop.train_step(pupil, loop.make_optimizers(pupil, made.train), batch, made, 0)
    assert asked == [ambiguous]


def test_learning_rate() -> None:
    config = recipe("train.steps=100", "train.warmup_steps=10", "train.lr=1.0").train
    rates = [learning_rate(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9]
    assert rates[50] == pytest.approx(0.5)
    assert rates[-1] < 1e-3


@pytest.mark.slow
def test_masks_appear(tmp_path: Path) -> None:
    """From nothing to masks that beat what training starts with, on scenes it never saw."""
    made = recipe(
        "model.image_size=128", "data.size=128", "model.prompt_width=96", "data.height=96", "train.steps=200",
        "train.batch_size=6", "train.optimizer=muon", "train.lr=1.5e-3", "train.warmup_steps=40",
        "train.focal_weight=0.5", "data.masks=4", "train.eval_scenes=10",
    )  # fmt: skip
    assert train_sam(made, tmp_path / "run")["iou_5"] > 15


def test_sam_tiny_is_small() -> None:
    sam = load_sam("sam_tiny", "random").sam
    assert sum(p.numel() for p in sam.parameters()) < 5e6
