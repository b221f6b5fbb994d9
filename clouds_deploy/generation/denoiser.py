"""A diffusion pipeline's UNet with a LoRA on its attention, and the LoRA's loss.

The loss is DreamBooth's with low-rank updates (Ruiz et al. 2023; Hu et al. 2022), as diffusers' training
examples compute it: the mean squared error of the predicted noise, or velocity, at a random time.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.painter import load_pipeline
from clouds_deploy.models.libraries import library

WEIGHTS = "pytorch_lora_weights.safetensors"
"""Name of a LoRA's file in diffusers."""
TARGETS = ("to_k", "to_out.0", "to_q", "to_v")
"""The projections of every attention layer, by diffusers' names."""
KINDS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
_PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


class Denoiser:
    """The UNet of a Stable Diffusion or SDXL pipeline, prepared for tuning.

    Its own weights are frozen and kept in the chosen precision; the LoRA is float32. The autoencoder stays in
    float32, since SDXL's overflows in float16; the prompts are encoded once, then the text encoders go.

    Args:
        model: A hub id or a folder in the hub's form.
        prompts: The prompts that `loss` will be asked about, by number.
        rank: Of the update; its scale is 1 (alpha equals rank).
        seed: Of the update's first weights.
        precision: `fp32`, `fp16` or `bf16`.
        device: Where it runs.
        save_memory: Whether to compute activations twice instead of keeping them.

    Raises:
        CloudsError: diffusers or peft is missing, the pipeline cannot be loaded, or it is none of a kind that
            this loss is right for.
    """

    def __init__(
        self,
        model: str,
        prompts: Sequence[str],
        *,
        rank: int,
        seed: int,
        precision: str = "fp32",
        device: str = "cpu",
        save_memory: bool = False,
    ) -> None:
        peft = library("peft")
        self.kind, self.device = KINDS[precision], device
        pipeline = load_pipeline(model, {"default": self.kind, "vae": torch.float32})
        self.scheduler = check_tunable(pipeline, model)
        self.pipeline: Any = type(pipeline)
        self.unet, self.vae = pipeline.unet, pipeline.vae
        self.sha256 = _sha256(self.unet)
        self.scale: int = pipeline.vae_scale_factor
        for part in (self.unet, self.vae, pipeline.text_encoder, getattr(pipeline, "text_encoder_2", None)):
            if part is not None:
                part.requires_grad_(False).eval()  # without dropout, which these models have none of
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.unet.add_adapter(
                peft.LoraConfig(
                    r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(TARGETS)
                )
            )
        for parameter in self.trained().values():
            parameter.data = parameter.data.float()
        self._embed(pipeline, prompts)
        if save_memory:
            self.unet.enable_gradient_checkpointing()

    def native_size(self) -> int:
        """Side, in pixels, of the images that the model was trained for."""
        return int(self.unet.config.sample_size) * self.scale

    def trained(self) -> dict[str, Tensor]:
        """The LoRA's parameters, by name."""
        return {name: p for name, p in self.unet.named_parameters() if p.requires_grad}

    def _embed(self, pipeline: Any, prompts: Sequence[str]) -> None:
        """Embeds the prompts: (P, L, D), and for SDXL pooled (P, E)."""
        pipeline.to(self.device)
        with torch.no_grad():
            given = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
            found = pipeline.encode_prompt(list(prompts), device=self.device, **given)
        self.embeddings: Tensor = found[0]
        self.pooled: Tensor | None = found[2] if len(found) == 4 else None

    def loss(self, pixels: Tensor, told: Tensor, prompts: Sequence[int], seed: int) -> Tensor:
        """Loss of each sample.

        Args:
            pixels: (B, 3, H, W) float32 in -1..1; sides are multiples of the autoencoder's factor.
            told: (B, 6) float32, what SDXL is told about each; see `Shots.draw`.
            prompts: The number of each sample's prompt.
            seed: The draws of autoencoder, noise and time are a function of it, in this order.

        Returns:
            (B,) float32, mean squared errors.
        """
        dice = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            found = self.vae.encode(pixels.to(self.device)).latent_dist
            draw = torch.randn(found.mean.shape, generator=dice).to(self.device)
            latents = (found.mean + found.std * draw) * self.vae.config.scaling_factor
        noise = torch.randn(latents.shape, generator=dice).to(self.device)
        times = torch.randint(self.scheduler.config.num_train_timesteps, (len(latents),), generator=dice)
        times = times.to(self.device)
        noisy = self.scheduler.add_noise(latents, noise, times)
        number = torch.tensor(list(prompts), device=self.device)
        added = {}
        if self.pooled is not None:
            said = {"text_embeds": self.pooled[number], "time_ids": told.to(self.device, self.kind)}
            added = {"added_cond_kwargs": said}
        kind = torch.device(self.device).type
        with torch.autocast(kind, self.kind, enabled=self.kind != torch.float32):
            guess = self.unet(noisy.to(self.kind), times, self.embeddings[number], **added).sample
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, times) if velocity else noise
        return functional.mse_loss(guess.float(), target, reduction="none").mean((1, 2, 3))

    def save(self, folder: Path) -> None:
        """Writes the LoRA in diffusers' format; the same weights give the same bytes."""
        from safetensors.torch import save_file

        convert = library("diffusers.utils.state_dict_utils").convert_state_dict_to_diffusers
        key_of_facts = library("diffusers.loaders.lora_base").LORA_ADAPTER_METADATA_KEY
        about = {f"unet.{key}": value for key, value in self.unet.peft_config["default"].to_dict().items()}
        told = {key: sorted(value) if isinstance(value, set) else value for key, value in about.items()}
        # diffusers adds a second key to the header, and safetensors writes two in an order that varies
        header = {key_of_facts: json.dumps(told, sort_keys=True)}

        def write(tensors: dict[str, Tensor], path: str) -> None:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path, header)

        self.pipeline.save_lora_weights(
            str(folder),
            unet_lora_layers=convert(library("peft").get_peft_model_state_dict(self.unet)),
            weight_name=WEIGHTS,
            save_function=write,
        )


def check_tunable(pipeline: Any, model: str) -> Any:
    """Raises an error for a pipeline that this loss is wrong for.

    Args:
        pipeline: A loaded pipeline.
        model: What to call it.

    Returns:
        The noise schedule of its training, which may differ from the sampler's.

    Raises:
        CloudsError: It is not Stable Diffusion or SDXL, or has other inputs or outputs.
    """
    name = type(pipeline).__name__
    hint = f"LoRAs are tuned for {' and '.join(_PIPELINES)}"
    if name not in _PIPELINES:
        raise CloudsError(f"{model} is a {name}, which cannot be tuned here", hint)
    if pipeline.text_encoder is None:
        raise CloudsError(f"{model} lacks its first text encoder: it is a refiner", "give the base model")
    unet, vae = pipeline.unet.config, pipeline.vae.config
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        raise CloudsError(f"{model} takes more than noise: it is made for inpainting or the like", hint)
    if getattr(unet, "time_cond_proj_dim", None) is not None or getattr(vae, "latents_mean", None):
        raise CloudsError(f"{model} was distilled, or scales its latents in its own way", hint)
    config = pipeline.scheduler.config
    if "beta_schedule" not in config or "num_train_timesteps" not in config:
        raise CloudsError(
            f"{model} was trained with {type(pipeline.scheduler).__name__}, not with a schedule of betas",
            "LoRAs are tuned for models of noise and of velocity prediction",
        )
    kind = config.get("prediction_type", "epsilon")
    if kind not in ("epsilon", "v_prediction"):
        raise CloudsError(
            f"{model} predicts `{kind}`",
            "LoRAs are tuned for models that predict `epsilon` or `v_prediction`",
        )
    return library("diffusers").DDPMScheduler.from_config(config)


def _sha256(module: torch.nn.Module) -> str:
    """The sha256 of a module's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
