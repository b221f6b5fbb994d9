"""Diffusion pipelines of random weights, in the form of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from clouds_deploy.generation.tune_diffusion import tune_diffusion
from clouds_deploy.models.libraries import library
from clouds_deploy.streets import render
from tests.generation.tuning_cases import PROMPT, QUICK


def _tokenizer(folder: Path) -> tuple[Any, int]:
    from transformers import CLIPTokenizer

    letters = [chr(c) for c in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    names = (str(folder / "vocab.json"), str(folder / "merges.txt"))
    return CLIPTokenizer(*names, model_max_length=77), len(words)


def _text_config(words: int, **more: Any) -> Any:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=words, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=1, **more,
    )  # fmt: skip


def _autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 16), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=32,
    )  # fmt: skip


def _unet(width: int, **more: Any) -> Any:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=width, attention_head_dim=4,
        **more,
    )  # fmt: skip


def _stable_diffusion(folder: Path, **schedule: Any) -> Path:
    library("diffusers")
    from diffusers import DDIMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    tokenizer, words = _tokenizer(folder)
    torch.manual_seed(0)
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(words)),
        tokenizer=tokenizer,
        unet=_unet(16),
        scheduler=DDIMScheduler(clip_sample=False, **schedule),
        safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion of 100,000 random parameters, which predicts noise."""
    return _stable_diffusion(tmp_path_factory.mktemp("diffusion"))


@pytest.fixture(scope="session")
def tiny_velocity(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as one that predicts velocity."""
    return _stable_diffusion(tmp_path_factory.mktemp("velocity"), prediction_type="v_prediction")


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SDXL of random weights, with both of its text encoders."""
    library("diffusers")
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    folder = tmp_path_factory.mktemp("xl")
    tokenizer, words = _tokenizer(folder)
    torch.manual_seed(0)
    config = _text_config(words, projection_dim=16)
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(config),
        text_encoder_2=CLIPTextModelWithProjection(config),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=_unet(
            32, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8, transformer_layers_per_block=(1, 1),
        ),
        scheduler=EulerDiscreteScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
    )  # fmt: skip
    pipeline.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture(scope="module")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shots")
    for i in range(3):
        Image.fromarray(render("photo", 7, i, 64, 128).image).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def tuned(
    one_thread: None, tiny_diffusion: Path, shots: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "lora"
    tune_diffusion(str(tiny_diffusion), shots, out=out, prompt=PROMPT, tuning=QUICK)
    return out
