"""Tuning a LoRA of a diffusion model on a few shots of a domain, DreamBooth-style.

Every random draw is a function of the seed and the step, so no random state is saved, and a resumed tuning
ends with the same bytes.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from clouds_deploy import seeds
from clouds_deploy.artifacts import atomic_path
from clouds_deploy.artifacts.claims import Scratch
from clouds_deploy.console import progress
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.denoiser import WEIGHTS, Denoiser
from clouds_deploy.generation.lora_run import Checkpoint, LoraRun, moments_of, restore
from clouds_deploy.generation.shots import Shots

_LONGEST_GRADIENT = 1.0


@dataclass(frozen=True)
class Tuning:
    """Settings of a tuning.

    Attributes:
        rank: Of the update.
        steps: Optimiser steps.
        lr: AdamW's learning rate, constant.
        batch: Shots in a step; with prior preservation as many class images besides.
        height: Rows of the crops in pixels; None is the size of the model's training.
        width: Columns of the crops.
        flip: Whether to mirror shots.
        prior_weight: Weight of the class images' loss.
        precision: `auto`, `fp32`, `fp16` or `bf16`: of the frozen weights. The LoRA is float32.
        save_memory: Whether to compute activations twice instead of keeping them.
    """

    rank: int = 4
    steps: int = 500
    lr: float = 1e-4
    batch: int = 1
    height: int | None = None
    width: int | None = None
    flip: bool = False
    prior_weight: float = 1.0
    precision: str = "auto"
    save_memory: bool = False


@dataclass(frozen=True)
class Batch:
    """Samples of one step.

    Attributes:
        pixels: (B, 3, H, W); see `Denoiser.loss`.
        told: (B, 6).
        prompts: B numbers, 0 for the domain and 1 for its class.
        seed: Of noise and times.
    """

    pixels: Tensor
    told: Tensor
    prompts: list[int]
    seed: int


def draw_batch(shots: Shots, others: Shots | None, batch: int, seed: int, step: int) -> Batch:
    """Samples of step number `step`, from 0: `batch` shots, then as many class images."""
    numbers = range(step * batch, (step + 1) * batch)
    drawn = [shots.draw(i, seed) for i in numbers]
    if others is not None:
        drawn += [others.draw(i, seed) for i in numbers]
    prompts = [0] * batch + [1] * (len(drawn) - batch)
    pixels, told = (torch.stack(part) for part in zip(*drawn, strict=True))
    return Batch(pixels, told, prompts, seeds.derive(seed, step, seeds.NOISE))


def batch_loss(denoiser: Denoiser, batch: Batch, prior_weight: float) -> tuple[Tensor, Tensor]:
    """Loss of the shots, and the loss to minimise with prior preservation (DreamBooth, equation 2)."""
    losses = denoiser.loss(batch.pixels, batch.told, batch.prompts, batch.seed)
    prior = torch.tensor(batch.prompts, device=losses.device) == 1
    own = losses[~prior].mean()
    return own, own + prior_weight * losses[prior].mean() if bool(prior.any()) else own


def tune(
    denoiser: Denoiser,
    shots: Shots,
    others: Shots | None,
    settings: Tuning,
    run: LoraRun,
    *,
    seed: int,
    checkpoint_every: int,
) -> list[float]:
    """Trains the LoRA from the run's newest checkpoint, and writes it into the run.

    Args:
        denoiser: The model.
        shots: Images of the domain.
        others: Images of its class, for prior preservation.
        settings: See `Tuning`.
        run: Where checkpoints, losses and the LoRA go.
        seed: Of every random draw.
        checkpoint_every: Steps between checkpoints.

    Returns:
        The shots' loss at every step.

    Raises:
        CloudsError: The loss is not finite (exit code 1); the disk is full.
    """
    trained = denoiser.trained()
    optimizer = torch.optim.AdamW(trained.values(), lr=settings.lr, weight_decay=1e-2)
    half = denoiser.kind == torch.float16
    scaler = torch.amp.GradScaler(torch.device(denoiser.device).type, enabled=half)
    found = run.load(denoiser.sha256)
    if found is not None:
        restore(found, optimizer, trained)
        scaler.load_state_dict(found.scaler)
    start = found.step if found else 0
    run.keep_lines(start)
    losses: list[dict[str, Any]] = []
    with progress("tuning", settings.steps, "step") as advance:
        for step in range(start, settings.steps):
            batch = draw_batch(shots, others, settings.batch, seed, step)
            own, loss = batch_loss(denoiser, batch, settings.prior_weight)
            value, total = float(own.detach()), float(loss.detach())
            if not math.isfinite(total):
                raise CloudsError(
                    f"the loss is {total} at step {step + 1}",
                    "lower --lr" + (", or choose --precision bf16" if half else ""),
                    exit_code=1,
                )
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(list(trained.values()), _LONGEST_GRADIENT)
            scaler.step(optimizer)
            scaler.update()
            losses.append({"step": step + 1, "loss": value, "total": total})
            if (step + 1) % checkpoint_every == 0 or step + 1 == settings.steps:
                run.note(losses)
                losses.clear()
                lora = {name: p.detach() for name, p in trained.items()}
                moments = moments_of(optimizer, trained)
                run.save(Checkpoint(step + 1, lora, moments, scaler.state_dict()), denoiser.sha256)
            advance(step + 1, f"loss {value:.3f}")
    _write(denoiser, run)
    return [line["loss"] for line in run.lines()]


def _write(denoiser: Denoiser, run: LoraRun) -> None:
    """Writes the LoRA into its run atomically."""
    with Scratch() as folder:
        denoiser.save(folder)
        with atomic_path(run.out / WEIGHTS) as temporary:
            shutil.copyfile(folder / WEIGHTS, temporary)  # safetensors makes its files private
