"""Text-to-image models of diffusers, and synthetic streets as a substitute."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from clouds_deploy.artifacts import MANIFEST, read_manifest, sha256
from clouds_deploy.backends.device import resolve_device
from clouds_deploy.config.generate import Settings
from clouds_deploy.console import warn
from clouds_deploy.errors import CloudsError, first_line
from clouds_deploy.generation.load_writer import own_code
from clouds_deploy.models.libraries import library
from clouds_deploy.streets import render

STREETS = "streets"
"""The model without weights: synthetic streets of the domain `imagined`, independent of the prompts."""
LORA, SETTINGS = "lora", "settings.json"
"""Kind of the directory that `tune_diffusion` makes, and a file that is in it from the start."""
_ADAPTER = "clouds"
PRECISIONS = ("auto", "fp32", "fp16", "bf16")


class Painter(Protocol):
    """Generator of images from prompts."""

    def describe(self) -> dict[str, Any]:
        """Description of the model, for manifests."""
        ...

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """One image of each prompt.

        Args:
            prompts: The prompts.
            seeds: One number for each image, from which all its noise derives.

        Returns:
            RGB images; None where the model's safety checker refused one.
        """
        ...


class Streets:
    """Synthetic streets; see `STREETS`."""

    def __init__(self, settings: Settings) -> None:
        self.height, self.width = settings.height or 384, settings.width or 768

    def describe(self) -> dict[str, Any]:
        """See `Painter`."""
        return {
            "model": "streets/imagined",
            "note": "drawn by clouds_deploy, not by a diffusion model; the prompts had no influence",
        }

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """See `Painter`."""
        scenes = (render("imagined", seed % 2**31, 0, self.height, self.width) for seed in seeds)
        return [Image.fromarray(scene.image) for scene in scenes]


class Diffusion:
    """A text-to-image pipeline of diffusers' AutoPipeline.

    Args:
        model: A hub id or a folder in the hub's form.
        settings: How images are made.
        adapter: A LoRA of that model: what `tune_diffusion` made, a hub id, a folder or a file.
        adapter_scale: Its strength; 0 is the model without it.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        CloudsError: diffusers is missing, or the model or the adapter cannot be loaded.
    """

    def __init__(
        self,
        model: str,
        settings: Settings,
        adapter: str | None = None,
        adapter_scale: float = 1.0,
        device: str = "auto",
    ) -> None:
        import torch

        self.settings, self.model, self.adapter, self.adapter_scale = settings, model, adapter, adapter_scale
        self._adapter_sums = _sums_of_adapter(adapter)
        self.device = resolve_device(device, "torch")
        auto = "fp32" if self.device == "cpu" else "fp16"
        self.precision = auto if settings.precision == "auto" else settings.precision
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.precision]
        pipeline = load_pipeline(model, kind)
        if adapter is not None:
            try:
                pipeline.load_lora_weights(adapter, adapter_name=_ADAPTER, use_safetensors=True)
                pipeline.set_adapters([_ADAPTER], [adapter_scale])
            except Exception as error:
                raise CloudsError(
                    f"the LoRA {adapter} does not fit {model}: {first_line(error)}",
                    "was it made for this model?",
                ) from error
        pipeline.set_progress_bar_config(disable=True)
        pipeline.to(self.device)
        if settings.compiled:
            part = "transformer" if getattr(pipeline, "transformer", None) is not None else "unet"
            setattr(pipeline, part, torch.compile(getattr(pipeline, part)))
        self.pipeline, self.torch = pipeline, torch
        if getattr(pipeline, "safety_checker", None) is None:
            warn("this pipeline has no safety checker: look at the contact sheet before you use the images")

    def describe(self) -> dict[str, Any]:
        """See `Painter`."""
        sums = weight_sums(Path(self.model))
        used = {"adapter_scale": self.adapter_scale, "adapter_sha256": self._adapter_sums}
        return {
            "model": self.model,
            "pipeline": type(self.pipeline).__name__,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "precision": self.precision,
            "adapter": self.adapter,
            "diffusers": library("diffusers").__version__,
            "safety_checker": getattr(self.pipeline, "safety_checker", None) is not None,
            **(used if self.adapter is not None else {}),
            **({"sha256": sums} if sums else {}),
        }

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """See `Painter`."""
        chosen: dict[str, Any] = {
            "height": self.settings.height,
            "width": self.settings.width,
            "num_inference_steps": self.settings.steps,
            "guidance_scale": self.settings.guidance,
            "negative_prompt": [self.settings.negative] * len(prompts) if self.settings.negative else None,
        }
        generators = [self.torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with self.torch.inference_mode():
            found = self.pipeline(
                prompt=list(prompts),
                generator=generators,
                output_type="np",
                **{name: value for name, value in chosen.items() if value is not None},
            )
        refused = getattr(found, "nsfw_content_detected", None) or [False] * len(prompts)
        return [
            None
            if bad
            else Image.fromarray((np.nan_to_num(pixels).clip(0, 1) * 255).round().astype(np.uint8))
            for pixels, bad in zip(found.images, refused, strict=True)
        ]


def load_pipeline(model: str, kind: Any) -> Any:
    """Loads a text-to-image pipeline onto the CPU.

    Args:
        model: A hub id or a folder in the hub's form.
        kind: The torch dtype of its weights, or one for each part by name and `default`.

    Raises:
        CloudsError: diffusers is missing, or the model cannot be loaded.
    """
    diffusers = library("diffusers")
    try:
        return diffusers.AutoPipelineForText2Image.from_pretrained(
            model, torch_dtype=kind, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        if "trust_remote_code" in str(error):
            raise own_code("diffusion model", model) from error
        raise CloudsError(
            f"the diffusion model {model} cannot be loaded: {first_line(error)}",
            f"give a text-to-image pipeline's hub id or folder; `{STREETS}` needs no weights",
        ) from error


def weight_sums(folder: Path) -> dict[str, str]:
    """The sha256 of every safetensors file in a folder, by path; none without the folder."""
    paths = sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ()
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def _sums_of_adapter(adapter: str | None) -> dict[str, str]:
    """The sha256 of a LoRA's local files; checks the manifest of one that was tuned here."""
    if adapter is None:
        return {}
    path = Path(adapter)
    if path.is_file():
        return {path.name: sha256(path)}
    if (path / SETTINGS).is_file():
        if not (path / MANIFEST).is_file():
            raise CloudsError(
                f"the tuning in {path} is not finished", "go on with it: tune-diffusion --resume"
            )
        read_manifest(path, LORA)
    sums = {file.name: sha256(file) for file in sorted(path.glob("*.safetensors"))} if path.is_dir() else {}
    if path.is_dir() and not sums:
        raise CloudsError(f"{path} holds no LoRA", "give what `clouds-deploy tune-diffusion` made, or a file")
    return sums


def load_painter(
    model: str,
    settings: Settings,
    adapter: str | None = None,
    adapter_scale: float = 1.0,
    device: str = "auto",
) -> Painter:
    """Loads the generator of images.

    Args:
        model: `streets`, or a text-to-image pipeline; see `Diffusion`.
        settings: How images are made.
        adapter: See `Diffusion`.
        adapter_scale: See `Diffusion`.
        device: See `Diffusion`.

    Raises:
        CloudsError: A setting is wrong, or the model cannot be loaded.
    """
    if settings.precision not in PRECISIONS:
        raise CloudsError(
            f"there is no precision `{settings.precision}`", f"choose one of {', '.join(PRECISIONS)}"
        )
    if model != STREETS:
        return Diffusion(model, settings, adapter, adapter_scale, device)
    if adapter is not None:
        raise CloudsError(f"`{STREETS}` takes no LoRA", "name a diffusion model with --model")
    return Streets(settings)
