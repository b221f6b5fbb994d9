"""Text-to-image models through diffusers, and drawn streets where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from clouds_deploy.artifacts import sha256
from clouds_deploy.console import warn
from clouds_deploy.data.streets import render
from clouds_deploy.errors import CloudsError
from clouds_deploy.torchvision_compat import ensure_torchvision

STREETS = "streets"
"""The model that needs no weights: drawn streets of the domain `imagined`, which no prompt describes."""
_INSTALL = 'pip install "clouds-deploy[generate]"'
PRECISIONS = ("auto", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Settings:
    """How images are made.

    Attributes:
        height: Rows in pixels; None is what the model was made for.
        width: Columns in pixels.
        steps: Denoising steps; None is the pipeline's own number (the authors: 50).
        guidance: Classifier-free guidance; None is the pipeline's own (the authors: 7.5).
        negative: What is not to be seen; the authors have none.
        precision: `auto` is fp16 on a GPU and fp32 on a CPU.
        compiled: Whether to compile the denoiser.
    """

    height: int | None = None
    width: int | None = None
    steps: int | None = None
    guidance: float | None = None
    negative: str = ""
    precision: str = "auto"
    compiled: bool = False


class Painter(Protocol):
    """Makes images from prompts."""

    def describe(self) -> dict[str, Any]:
        """Say which model it is, for manifests."""
        ...

    def paint(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image | None]:
        """Make an image of each prompt.

        Args:
            prompts: The prompts.
            seeds: One number for each image, from which all its noise derives.

        Returns:
            RGB images; None where the model's safety checker refused one.
        """
        ...


class Streets:
    """Drawn streets; see `STREETS`."""

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
    """A text-to-image pipeline that diffusers' AutoPipeline knows.

    Args:
        model: A hub id or a folder in the hub's form.
        settings: How images are made.
        adapter: A LoRA of that model: a hub id, a folder or a file.

    Raises:
        CloudsError: diffusers is missing, or the model or the adapter cannot be had.
    """

    def __init__(self, model: str, settings: Settings, adapter: str | None = None) -> None:
        ensure_torchvision()
        try:
            import diffusers
            import torch
        except ImportError as error:
            raise CloudsError("generating images needs diffusers", _INSTALL) from error
        self.settings, self.model, self.adapter = settings, model, adapter
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        auto = "fp16" if self.device == "cuda" else "fp32"
        self.precision = auto if settings.precision == "auto" else settings.precision
        kind = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.precision]
        try:
            auto_pipeline: Any = diffusers.AutoPipelineForText2Image
            pipeline = auto_pipeline.from_pretrained(model, torch_dtype=kind)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise CloudsError(
                f"the diffusion model {model} cannot be had: {_first_line(error)}",
                f"give a text-to-image pipeline's hub id or folder; `{STREETS}` needs no weights",
            ) from error
        if adapter is not None:
            try:
                pipeline.load_lora_weights(adapter)
            except Exception as error:
                raise CloudsError(
                    f"the LoRA {adapter} does not fit {model}: {_first_line(error)}",
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
        import diffusers

        folder = Path(self.model)
        sums = {
            path.relative_to(folder).as_posix(): sha256(path)
            for path in (sorted(folder.rglob("*.safetensors")) if folder.is_dir() else ())
        }
        return {
            "model": self.model,
            "pipeline": type(self.pipeline).__name__,
            "scheduler": type(self.pipeline.scheduler).__name__,
            "precision": self.precision,
            "adapter": self.adapter,
            "diffusers": diffusers.__version__,
            "safety_checker": getattr(self.pipeline, "safety_checker", None) is not None,
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


def load_painter(model: str, settings: Settings, adapter: str | None = None) -> Painter:
    """Load what makes images.

    Args:
        model: `streets`, or a text-to-image pipeline; see `Diffusion`.
        settings: How images are made.
        adapter: See `Diffusion`.

    Raises:
        CloudsError: A setting is wrong, or the model cannot be had.
    """
    if settings.precision not in PRECISIONS:
        raise CloudsError(
            f"there is no precision `{settings.precision}`", f"choose one of {', '.join(PRECISIONS)}"
        )
    if model != STREETS:
        return Diffusion(model, settings, adapter)
    if adapter is not None:
        raise CloudsError(f"`{STREETS}` takes no LoRA", "name a diffusion model with --model")
    return Streets(settings)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
