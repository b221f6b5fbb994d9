"""LoRAs of tiny diffusion pipelines of random weights: against the definition, killed, resumed, used."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clouds_deploy import seeds
from clouds_deploy.artifacts import read_manifest, sha256
from clouds_deploy.config.generate import Settings
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation import tuning as loop
from clouds_deploy.generation.denoiser import WEIGHTS, Denoiser
from clouds_deploy.generation.generate import generate
from clouds_deploy.generation.lora_run import CHECKPOINTS, METRICS
from clouds_deploy.generation.painter import weight_sums
from clouds_deploy.generation.tune_diffusion import tune_diffusion
from clouds_deploy.generation.tuning import Tuning, batch_loss, draw_batch
from tests.deadly import kill, wait_until
from tests.generation.tuning_cases import CLASS_PROMPT, PROMPT, QUICK, child, prepared

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = Settings(height=32, width=64, steps=2)


def test_the_folder(tuned: Path, tiny_diffusion: Path, shots: Path) -> None:
    manifest = read_manifest(tuned, "lora")
    assert manifest["inputs"] == {f"shots/{i}.png": sha256(shots / f"{i}.png") for i in range(3)}
    assert (manifest["rank"], manifest["seed"], manifest["prediction_type"]) == (2, 0, "epsilon")
    assert manifest["sha256"] == weight_sums(tiny_diffusion)
    assert manifest["parameters"] == sum(t.numel() for t in load_file(tuned / WEIGHTS).values()) > 0
    assert set(manifest["versions"]) == {"diffusers", "peft", "transformers"}
    assert sorted(path.name for path in tuned.iterdir()) == sorted(
        [WEIGHTS, "manifest.json", METRICS, "settings.json"]
    )
    lines = [json.loads(line) for line in (tuned / METRICS).read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 7))


def test_only_attention_is_tuned_and_the_base_stays(tiny_diffusion: Path, shots: Path) -> None:
    from diffusers import UNet2DConditionModel

    denoiser = Denoiser(str(tiny_diffusion), [PROMPT], rank=2, seed=0)
    few = prepared(shots)
    trained = denoiser.trained()
    before = {name: p.detach().clone() for name, p in denoiser.unet.state_dict().items()}
    assert all(
        ".attn" in name and name.split(".lora_")[0].endswith(("to_q", "to_k", "to_v", "to_out.0"))
        for name in trained
    )
    optimizer = torch.optim.AdamW(trained.values(), lr=1e-2)
    for step in range(3):
        optimizer.zero_grad()
        batch_loss(denoiser, draw_batch(few, None, 2, 0, step), 1.0)[1].backward()
        optimizer.step()
    after = denoiser.unet.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == set(trained)
    loader: Any = UNet2DConditionModel
    base = loader.from_pretrained(tiny_diffusion, subfolder="unet").state_dict()
    own = {name.replace(".base_layer", ""): t for name, t in after.items() if ".lora_" not in name}
    assert own.keys() == base.keys()
    assert all(torch.equal(own[name], base[name]) for name in base)


def test_the_loss_of_one_batch_falls(tiny_diffusion: Path, shots: Path) -> None:
    denoiser = Denoiser(str(tiny_diffusion), [PROMPT], rank=4, seed=0)
    batch = draw_batch(prepared(shots), None, 3, 0, 0)
    optimizer = torch.optim.AdamW(denoiser.trained().values(), lr=1e-2)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = batch_loss(denoiser, batch, 1.0)[1]
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.95 * losses[0]
    assert all(np.diff(losses[::10]) < 0)


@pytest.mark.parametrize("name", ["tiny_diffusion", "tiny_velocity", "tiny_xl"])
def test_the_loss_is_the_definition(
    name: str, shots: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """After some steps, against a base whose weights got the update by hand, and the schedule's formulas."""
    model = request.getfixturevalue(name)
    from diffusers import AutoPipelineForText2Image

    out = tmp_path / "lora"
    tune_diffusion(str(model), shots, out=out, prompt=PROMPT, tuning=QUICK)
    denoiser = Denoiser(str(model), [PROMPT, CLASS_PROMPT], rank=2, seed=0)
    for key, parameter in denoiser.trained().items():
        place = key.replace("lora_A.default", "lora.down").replace("lora_B.default", "lora.up")
        parameter.data.copy_(load_file(out / WEIGHTS)[f"unet.{place}"])
    few = prepared(shots)
    batch = draw_batch(few, few, 2, 0, 5)
    own, total = batch_loss(denoiser, batch, 0.5)

    loader: Any = AutoPipelineForText2Image
    pipeline = loader.from_pretrained(model)
    update = load_file(out / WEIGHTS)
    for key, module in pipeline.unet.named_modules():
        if f"unet.{key}.lora.down.weight" in update:
            b, a = update.pop(f"unet.{key}.lora.up.weight"), update.pop(f"unet.{key}.lora.down.weight")
            assert float((b @ a).abs().max()) > 1e-3
            module.weight.data += b @ a
    assert not update
    dice = torch.Generator().manual_seed(batch.seed)
    with torch.no_grad():
        mean, logvar = pipeline.vae.encode(batch.pixels).latent_dist.parameters.chunk(2, 1)
        draw = torch.randn(mean.shape, generator=dice)
        z = pipeline.vae.config.scaling_factor * (mean + (0.5 * logvar.clamp(-30, 20)).exp() * draw)
        noise = torch.randn(z.shape, generator=dice)
        times = torch.randint(1000, (4,), generator=dice)
        share = pipeline.scheduler.alphas_cumprod[times].float().view(-1, 1, 1, 1)
        noisy = share.sqrt() * z + (1 - share).sqrt() * noise
        velocity = share.sqrt() * noise - (1 - share).sqrt() * z
        found = [
            pipeline.encode_prompt(
                p, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            for p in (PROMPT, PROMPT, CLASS_PROMPT, CLASS_PROMPT)
        ]
        added = {}
        if name == "tiny_xl":
            times_told = torch.tensor([[64, 128, *told[2:4].tolist(), 32, 48] for told in batch.told])
            pooled = torch.cat([f[2] for f in found])
            added = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": times_told}}
        guess = pipeline.unet(noisy, times, torch.cat([f[0] for f in found]), **added).sample
    target = velocity if name == "tiny_velocity" else noise
    error = (guess - target).pow(2)
    torch.testing.assert_close(own, error[:2].mean(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(total, error[:2].mean() + 0.5 * error[2:].mean(), rtol=1e-6, atol=1e-6)


def test_the_same_seed_gives_the_same_bytes(
    tuned: Path, tiny_diffusion: Path, shots: Path, tmp_path: Path
) -> None:
    for seed, name in ((0, "twin"), (1, "other")):
        tune_diffusion(
            str(tiny_diffusion), shots, out=tmp_path / name, prompt=PROMPT, seed=seed, tuning=QUICK,
            checkpoint_every=4,
        )  # fmt: skip
    assert sha256(tmp_path / "twin" / WEIGHTS) == sha256(tuned / WEIGHTS)
    assert sha256(tmp_path / "twin" / METRICS) == sha256(tuned / METRICS)
    assert sha256(tmp_path / "other" / WEIGHTS) != sha256(tuned / WEIGHTS)


@pytest.mark.slow
def test_a_killed_process_that_goes_on_ends_with_the_same_bytes(
    tiny_diffusion: Path, shots: Path, tmp_path: Path
) -> None:
    """Killed among the class images, and again among the steps; another process made the LoRA undisturbed."""
    out, whole = tmp_path / "killed", tmp_path / "whole"
    assert subprocess.run(child(tiny_diffusion, shots, whole), check=False).returncode == 0
    for due in ("class/images/000000.png", f"{CHECKPOINTS}/step_*"):
        more = ["--resume"] if out.exists() else []
        process = subprocess.Popen(child(tiny_diffusion, shots, out, *more))
        wait_until(lambda due=due: list(out.glob(due)), 120)
        kill(process)
        assert not (out / "manifest.json").exists()
    assert subprocess.run(child(tiny_diffusion, shots, out, "--resume"), check=False).returncode == 0
    for name in (WEIGHTS, METRICS, "class/images/000002.png"):
        assert sha256(out / name) == sha256(whole / name), name
    assert not [path for path in out.rglob("*") if ".tmp-" in path.name]


@pytest.mark.parametrize("damaged", [False, True])
def test_resumed_to_the_last_bit(
    tuned: Path, tiny_diffusion: Path, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    damaged: bool,
) -> None:  # fmt: skip
    def stop(denoiser: Any, batch: Any, weight: float) -> Any:
        if batch.seed == seeds.derive(0, 5, seeds.NOISE):
            raise KeyboardInterrupt
        return batch_loss(denoiser, batch, weight)

    out = tmp_path / "out"
    given: dict[str, Any] = {"out": out, "prompt": PROMPT, "tuning": QUICK, "checkpoint_every": 2}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_loss", stop)
        with pytest.raises(KeyboardInterrupt):
            tune_diffusion(str(tiny_diffusion), shots, **given)
    assert sorted(path.name for path in (out / CHECKPOINTS).iterdir()) == ["step_00000002", "step_00000004"]
    with pytest.raises(CloudsError, match="goes on with --resume"):
        tune_diffusion(str(tiny_diffusion), shots, **given)
    with pytest.raises(CloudsError, match=r"other settings \(prompt\)"):
        tune_diffusion(str(tiny_diffusion), shots, resume=True, **{**given, "prompt": "a tree"})
    with pytest.raises(CloudsError, match="not finished"):
        generate(tmp_path / "images", prompts=__file__, model=str(tiny_diffusion), adapter=str(out))
    if damaged:
        file = out / CHECKPOINTS / "step_00000004" / "tensors.safetensors"
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    tune_diffusion(str(tiny_diffusion), shots, resume=True, **given)
    assert sha256(out / WEIGHTS) == sha256(tuned / WEIGHTS)
    assert sha256(out / METRICS) == sha256(tuned / METRICS)
    stamp = (out / "manifest.json").read_bytes()
    again = tune_diffusion(str(tiny_diffusion), shots, resume=True, **given)
    assert again["steps"] == 6
    assert (out / "manifest.json").read_bytes() == stamp


def test_another_base_is_not_gone_on_with(
    tiny_diffusion: Path, tiny_velocity: Path, shots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    model = tmp_path / "model"
    shutil.copytree(tiny_diffusion, model)
    given: dict[str, Any] = {"out": tmp_path / "out", "prompt": PROMPT, "tuning": QUICK}
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            tune_diffusion(str(model), shots, **given)
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import save_file

    save_file({name: t * 1.001 for name, t in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(CloudsError, match="begun on other weights"):
        tune_diffusion(str(model), shots, resume=True, **given)


def images(folder: Path) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(Image.open(path)).astype(int) for path in sorted((folder / "images").glob("*.png"))]


@pytest.mark.parametrize("name", ["tiny_diffusion", "tiny_xl"])
def test_generate_uses_it(name: str, shots: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    model = str(request.getfixturevalue(name))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a bus\na tram\n")
    out = tmp_path / "tuned"
    strong = Tuning(rank=4, steps=20, lr=0.05, height=32, width=48)
    tune_diffusion(model, shots, out=out, prompt=PROMPT, tuning=strong)
    for where, given in {
        "base": {},
        "lora": {"adapter": str(out)},
        "file": {"adapter": str(out / WEIGHTS)},
        "none": {"adapter": str(out), "adapter_scale": 0.0},
        "said": {"adapter": str(out), "suffix": ", sks"},
    }.items():
        generate(tmp_path / where, prompts=prompts, model=model, settings=SMALL, **given)
    base, lora, file, none, said = (images(tmp_path / w) for w in ("base", "lora", "file", "none", "said"))
    assert all(np.array_equal(a, b) for a, b in zip(base, none, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(lora, file, strict=True))
    assert all(np.abs(a - b).max() > 3 for a, b in zip(base, lora, strict=True))
    assert all(not np.array_equal(a, b) for a, b in zip(said, lora, strict=True))
    manifest = read_manifest(tmp_path / "lora", "generated")
    assert manifest["adapter_sha256"] == {WEIGHTS: sha256(out / WEIGHTS)}
    assert manifest["adapter_scale"] == 1
    assert "adapter_sha256" not in read_manifest(tmp_path / "base", "generated")
    with (out / WEIGHTS).open("ab") as file_:
        file_.write(b"x")
    with pytest.raises(CloudsError, match="not the file its manifest names"):
        generate(tmp_path / "bad", prompts=prompts, model=model, settings=SMALL, adapter=str(out))
