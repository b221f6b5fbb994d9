"""The training loop of a promptable segmenter, in plain PyTorch.

As in the segmenter's loop, every random draw is a function of seed and step, so a resumed run ends with the
bytes of an undisturbed one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy import seeds
from clouds_deploy.artifacts import read_manifest
from clouds_deploy.backends.memory import kept_memory
from clouds_deploy.config.sam import SamRecipe, SamTrainConfig
from clouds_deploy.console import progress, say
from clouds_deploy.data.dataset import training_loader
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.checkpoints import Checkpoint
from clouds_deploy.models.clouds.store import read_tensors
from clouds_deploy.models.sam.lite_encoder import STRIDE
from clouds_deploy.models.sam.tiny import build_sam_tiny, initialize
from clouds_deploy.streets import render
from clouds_deploy.training.journal import Journal
from clouds_deploy.training.processes import device_name, own_device
from clouds_deploy.training.run import OPTIMIZER, RunFolder
from clouds_deploy.training.sam.dense import DenseHead, dense_loss, region_loss
from clouds_deploy.training.sam.evaluate import evaluate_sam
from clouds_deploy.training.sam.forward import decode, fuse_attention, fuse_norms
from clouds_deploy.training.sam.losses import mask_losses
from clouds_deploy.training.sam.prompts import CLEAR, corrected, first_prompts
from clouds_deploy.training.sam.scenes import SamScenes
from clouds_deploy.training.sam.windows import in_squares, in_windows
from clouds_deploy.training.schedule import learning_rate

KIND = "sam"
WEIGHTS = "sam.safetensors"
_LEARNER = "weights.safetensors"
_KEPT = 2
"""Checkpoints that stay, so that a damaged one costs only the steps since the other."""
_EVALUATION_SEED = 4211
_LOSSES = ("focal", "dice", "iou_error", "dense")


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Denormal numbers, below 1e-38, count as 0 while something runs.

    They make a convolution's backward pass three times as slow on x86. Only threads that PyTorch starts
    meanwhile leave them out too.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@kept_memory()
@flushed_denormals()
def train_sam(
    recipe: SamRecipe, out: Path, *, resume: bool = False, init: Path | None = None, device: str = "auto"
) -> dict[str, Any]:
    """Trains a small SAM into a run directory.

    Args:
        recipe: The experiment.
        out: The run directory; must not exist, unless it is to be resumed.
        resume: Goes on from the run's newest checkpoint that holds. A finished run is left as it is.
        init: Finished run, or safetensors file, whose weights a new run starts from; they may have been
            trained at another `model.image_size`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        run, steps, images_per_second (null when no step was left), iou_1, iou_5, clicks_5, instances.

    Raises:
        CloudsError: `out` exists, or there is nothing to resume; another recipe; `init` is neither, has
            been given for a resumed run, or has another architecture; the loss became NaN; the disk is full.
    """
    folder = RunFolder(out, recipe, KIND, keep=_KEPT)
    finished = folder.finished() if resume else None
    if finished is not None:
        return {"run": str(out), "images_per_second": None, **finished["outcome"]}
    folder.check_init(resume, init)
    if not resume:
        folder.check_new()
    place = torch.device(own_device(device))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(recipe.seed, 0, seeds.SAM_STEP))
        sam = build_sam_tiny(recipe.model)
        initialize(sam)
        head = DenseHead(recipe.model.prompt_width, STRIDE)
    if init is not None:
        _initialize(sam, init)
    fuse_attention(sam)
    fuse_norms(sam.image_encoder)
    trunk = sam.image_encoder.trunk
    sam.image_encoder.freeze(recipe.train.frozen_stages if recipe.train.trunk_lr else len(trunk.blocks))
    pupil = nn.ModuleDict({"sam": sam, "dense": head}).to(place).train()
    learner = _Learner(pupil, make_optimizers(pupil, recipe.train), torch.zeros(5, device=place))
    step = 0
    if not resume:
        folder.start(learner.tensors(), learner.facts())
    with folder.claimed():
        if resume:
            step = learner.restore(folder.resume())
        return _go_on(recipe, folder, learner, sam, step, place)


def _go_on(
    recipe: SamRecipe, folder: RunFolder, learner: _Learner, sam: nn.Module, step: int, place: torch.device
) -> dict[str, Any]:
    """Trains the steps that are left, evaluates and seals the run."""
    out = folder.path
    say(f"training on {device_name(place)}")
    with Journal(out, step, trained=step == recipe.train.steps) as journal:
        speed = _train(recipe, folder, learner, journal, step)
        outcome = _evaluate(recipe, sam)
        journal.write(recipe.train.steps, outcome)
    summary = {"steps": recipe.train.steps, **outcome}
    folder.finish(
        WEIGHTS,
        sam.state_dict(),
        steps=recipe.train.steps,
        recipe=recipe.model_dump(mode="json"),
        outcome=summary,
        trained_on=device_name(place),
    )
    return {"run": str(out), "images_per_second": speed, **summary}


@dataclass
class _Learner:
    """What a SAM's training changes.

    Attributes:
        pupil: `sam` and `dense`, see `train_step`.
        optimizers: See `make_optimizers`.
        window: (5,) float32, sums of losses and gradient norm since the last line of metrics.jsonl.
    """

    pupil: nn.ModuleDict
    optimizers: list[torch.optim.Optimizer]
    window: Tensor

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        moments = {
            f"{which}:{number}:{slot}": value
            for which, optimizer in enumerate(self.optimizers)
            for number, slots in optimizer.state_dict()["state"].items()
            for slot, value in slots.items()
        }
        return {_LEARNER: dict(self.pupil.state_dict()), OPTIMIZER: moments}

    def facts(self) -> dict[str, Any]:
        return {"window": self.window.tolist()}

    def restore(self, found: Checkpoint) -> int:
        """Puts all back as it was at a checkpoint, and returns its step."""
        self.pupil.load_state_dict(found.tensors(_LEARNER))
        saved = [optimizer.state_dict() for optimizer in self.optimizers]
        for key, value in found.tensors(OPTIMIZER).items():
            which, number, slot = key.split(":")
            saved[int(which)]["state"].setdefault(int(number), {})[slot] = value
        for optimizer, state in zip(self.optimizers, saved, strict=True):
            optimizer.load_state_dict(state)
        self.window.copy_(torch.tensor(found.state["window"]))
        return found.step


def make_optimizers(pupil: nn.Module, config: SamTrainConfig) -> list[torch.optim.Optimizer]:
    """Returns the optimisers of a model: AdamW, preceded by Muon if the recipe asks for it."""
    trunk = ".trunk."
    named = [(n, p) for n, p in pupil.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and not any(word in n for word in ("embed", "token"))]
    chosen = {id(p) for p in matrices} if config.optimizer == "muon" else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in named:
        if id(parameter) not in chosen:
            decays = parameter.ndim > 1 and not any(word in name for word in ("embed", "token"))
            kind = (config.weight_decay if decays else 0.0, config.trunk_lr if trunk in name else 1.0)
            groups.setdefault(kind, []).append(parameter)
    sections = [
        {"params": parameters, "weight_decay": decay, "share": share}
        for (decay, share), parameters in groups.items()
    ]
    adamw = torch.optim.AdamW(sections, lr=config.lr, betas=(0.9, 0.98), fused=True)
    if not chosen:
        return [adamw]
    muon = torch.optim.Muon(
        matrices, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, adamw]


def _initialize(sam: Any, given: Path) -> None:
    """Loads a finished run's weights, or a file's."""
    if not given.exists():
        raise CloudsError(
            f"there is no {given}", "give --init a finished run of a `kind: sam` recipe, or its weights"
        )
    if not given.is_file():
        read_manifest(given, KIND)
        given = given / WEIGHTS
    try:
        sam.load_state_dict(read_tensors(given))
    except RuntimeError as error:
        raise CloudsError(
            f"{given} holds another architecture: {error}", "give --init a run or weights of the same `model`"
        ) from None


def _train(
    recipe: SamRecipe, folder: RunFolder, learner: _Learner, journal: Journal, first: int
) -> float | None:
    """Does the steps from `first` on; returns images per second, None if no step was left."""
    config, optimizers, window = recipe.train, learner.optimizers, learner.window
    device = window.device
    if first == config.steps:
        return None
    scenes = SamScenes(recipe.data, recipe.data.size, recipe.model.image_size, recipe.seed)
    size = config.batch_size
    keys = [list(range(step * size, (step + 1) * size)) for step in range(first, config.steps)]
    begun, note = time.perf_counter(), ""
    with progress("training", config.steps, "step") as advance:
        for step, batch in enumerate(training_loader(scenes, keys, config.workers), first):
            moved = {name: value.to(device, non_blocking=True) for name, value in batch.items()}
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = learning_rate(step, config) * group.get("share", 1.0)
            losses, norm = train_step(learner.pupil, optimizers, moved, recipe, step)
            window += torch.cat((losses, norm[None]))
            done = step + 1
            if done % config.log_every == 0 or done == config.steps:
                means = (window / (done % config.log_every or config.log_every)).tolist()
                if not all(map(math.isfinite, means)):
                    raise CloudsError(f"the loss became NaN or infinite by step {done}", "lower train.lr")
                journal.write(done, dict(zip((*_LOSSES, "gradient_norm"), means, strict=True)))
                note = f"focal {means[0]:.3f} dice {means[1]:.3f} dense {means[3]:.3f}"
                window.zero_()
            if config.eval_every and done % config.eval_every == 0 and done < config.steps:
                journal.write(done, _evaluate(recipe, learner.pupil["sam"]))
            if done % config.checkpoint_every == 0 or done == config.steps:
                folder.save(done, learner.tensors(), learner.facts())
            advance(done, note)
    return (config.steps - first) * size / (time.perf_counter() - begun)


def train_step(
    pupil: nn.ModuleDict,
    optimizers: list[torch.optim.Optimizer],
    batch: dict[str, Tensor],
    recipe: SamRecipe,
    step: int,
) -> tuple[Tensor, Tensor]:
    """Does one optimiser step.

    Args:
        pupil: `sam`, a `segment_anything.modeling.Sam`, and `dense`, its `DenseHead`.
        optimizers: See `make_optimizers`, with the step's learning rate.
        batch: What `SamScenes` gives, batched.
        recipe: The experiment.
        step: From 0; chooses the prompts.

    Returns:
        losses (4,), see `mask_losses` and `dense_loss`, and the gradient's norm before it was clipped.
    """
    config, device, sam = recipe.train, batch["image"].device, pupil["sam"]
    draw = seeds.generator(recipe.seed, seeds.SAM_PROMPTS, step)
    generator = torch.Generator(device).manual_seed(seeds.derive(recipe.seed, step + 1, seeds.SAM_STEP))
    compare = _losses(device.type)
    kind = draw.random()
    with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        if kind < config.frames:
            look = in_squares(sam, _quarter(batch))
        elif kind < config.frames + config.wide:
            look = in_windows(sam, _quarter(batch), 2 * config.window, generator)
        else:
            look = in_windows(sam, batch, config.window, generator)
        embeddings, seen, masks, offsets = look
        points, labels = first_prompts(masks, draw, generator)
        sides = [4 * side for side in seen.shape[2:]]
        truth = F.interpolate(masks.float()[:, None], sides, mode="area")[:, 0]
        mask = None
        if draw.random() < config.corrections:
            rounds = int(draw.integers(1, config.rounds + 1))
            points, labels, mask = corrected(
                partial(decode, sam, seen.detach(), offsets=offsets), points, labels, masks, rounds, generator
            )
        logits, ratings = decode(sam, seen, points, labels, mask, offsets)
        ambiguous = int((labels[0] >= 0).sum()) < CLEAR
        losses = compare(logits, truth, ratings, config.focal_weight, ambiguous)
        if config.dense_weight:
            taught = embeddings.detach() if step < config.head_steps else embeddings
            dense = dense_loss(pupil["dense"], taught, batch["classes"], batch["extents"])
            dense = dense + region_loss(sam, embeddings, batch["regions"], generator)
        else:
            dense = embeddings.new_zeros(())
        losses = torch.cat((losses, config.dense_weight * dense[None]))
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
    losses.sum().backward()
    norm = nn.utils.clip_grad_norm_(pupil.parameters(), config.clip_norm)
    for optimizer in optimizers:
        optimizer.step()
    return losses.detach(), norm.detach()


def _quarter(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch with a quarter of every image's masks, at least one."""
    return {**batch, "masks": batch["masks"][:, : max(1, batch["masks"].shape[1] // 4)]}


@cache
def _losses(kind: str) -> Callable[..., Tensor]:
    """`mask_losses`, compiled on a GPU, where they cause most of a step's memory traffic."""
    return torch.compile(mask_losses) if kind == "cuda" else mask_losses


def _evaluate(recipe: SamRecipe, sam: nn.Module) -> dict[str, float]:
    """Evaluates on streets of the domain `imagined`, of other seeds than in training."""
    rows = recipe.data.height
    scenes = (
        render("imagined", _EVALUATION_SEED, i, rows, 2 * rows) for i in range(recipe.train.eval_scenes)
    )
    sam.eval()
    outcome = evaluate_sam(sam, scenes)
    sam.train()
    return outcome
