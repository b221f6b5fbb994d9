"""The verb `tune-diffusion`: a few shots of a domain and a pipeline go in, a LoRA comes out."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import MANIFEST, read_manifest
from clouds_deploy.config.generate import Settings
from clouds_deploy.errors import CloudsError
from clouds_deploy.generation.denoiser import Denoiser, check_tunable
from clouds_deploy.generation.generate import KIND, GenerateWork, run_generate
from clouds_deploy.generation.images import IMAGES
from clouds_deploy.generation.lora_run import CLASS, LoraRun
from clouds_deploy.generation.painter import LORA, PRECISIONS, STREETS, Diffusion, weight_sums
from clouds_deploy.generation.shots import Shots
from clouds_deploy.generation.tuning import Tuning, tune

_CLASS_BATCH = 4


def tune_diffusion(
    model: str,
    shots: str | Path,
    *,
    out: str | Path,
    prompt: str,
    class_prompt: str | None = None,
    class_images: str | Path | None = None,
    class_count: int = 100,
    seed: int = 0,
    checkpoint_every: int = 100,
    resume: bool = False,
    tuning: Tuning | None = None,
) -> dict[str, Any]:
    """Tunes a LoRA of a text-to-image pipeline on a few shots of a domain (CLOUDS, section 5: take-away).

    DreamBooth-style: a rare word in `prompt` gets the domain as its meaning. With a class prompt, images of
    the class keep the model from forgetting everything else (prior preservation).

    Args:
        model: A Stable Diffusion or SDXL pipeline, by hub id or folder.
        shots: Folder with a few images of the domain.
        out: The new folder; `generate(adapter=out)` uses it.
        prompt: Description of the shots, with a word without meaning: `a photo of a sks street`.
        class_prompt: The same without that word, for prior preservation: `a photo of a street`.
        class_images: Folder with images of the class; without one the model itself generates `class_count`.
        class_count: See `class_images`.
        seed: The same seed gives the same LoRA, on the same machine.
        checkpoint_every: Steps between checkpoints.
        resume: Whether to resume a killed tuning.
        tuning: Rank, steps and so on.

    Returns:
        out, steps, shots, class_images, parameters, precision, loss (mean of the first and of the last tenth
        of the steps), seconds.

    Raises:
        CloudsError: A setting is wrong, an image damaged, the pipeline cannot be loaded or is of another
            kind, `out` exists already or was begun with other settings.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = _resolve(tuning or Tuning(), device)
    _check(model, prompt, class_prompt, class_images, class_count, checkpoint_every)
    few = Shots(Path(shots), flip=chosen.flip)
    given = Shots(Path(class_images), flip=chosen.flip) if class_images is not None else None
    settings = {
        "model": model,
        "prompt": prompt,
        "class_prompt": class_prompt,
        "class_count": class_count if class_prompt is not None and given is None else None,
        "seed": seed,
        **asdict(chosen),
        "inputs": {
            **{f"shots/{name}": digest for name, digest in few.hashes().items()},
            **{f"class/{name}": digest for name, digest in (given.hashes() if given else {}).items()},
        },
    }
    folder = Path(out)
    run = LoraRun(folder, settings, resume=resume)
    if run.finished:
        return _result(folder, read_manifest(folder, LORA), 0.0)
    begun = time.perf_counter()
    if class_prompt is not None and given is None:
        given = _draw_class(run, model, class_prompt, class_count, seed, chosen)
    prompts = [prompt] if class_prompt is None else [prompt, class_prompt]
    denoiser = Denoiser(
        model, prompts, rank=chosen.rank, seed=seed, precision=chosen.precision, device=device,
        save_memory=chosen.save_memory,
    )  # fmt: skip
    native, unit = denoiser.native_size(), denoiser.scale
    size = (chosen.height or native, chosen.width or native)
    if size[0] % unit or size[1] % unit:
        raise CloudsError(f"crops of {size[0]}x{size[1]} do not fit {model}", f"give multiples of {unit}")
    for kind in (few, given):
        if kind is not None:
            kind.cut_to(size)
    run.begin()
    losses = tune(denoiser, few, given, chosen, run, seed=seed, checkpoint_every=checkpoint_every)
    tenth = max(len(losses) // 10, 1)
    manifest = run.seal(
        **settings,
        crop=size,
        base_sha256=denoiser.sha256,
        sha256=weight_sums(Path(model)),
        pipeline=denoiser.pipeline.__name__,
        prediction_type=denoiser.scheduler.config.prediction_type,
        parameters=sum(p.numel() for p in denoiser.trained().values()),
        device=device,
        loss=[sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth],
        class_images=len(given) if given else 0,
        versions={name: metadata.version(name) for name in ("diffusers", "peft", "transformers")},
    )
    return _result(folder, manifest, time.perf_counter() - begun)


def _result(out: Path, manifest: dict[str, Any], seconds: float) -> dict[str, Any]:
    shots = sum(name.startswith("shots/") for name in manifest["inputs"])
    kept = {key: manifest[key] for key in ("steps", "class_images", "parameters", "precision", "loss")}
    return {"out": str(out), "shots": shots, **kept, "seconds": seconds}


def _resolve(tuning: Tuning, device: str) -> Tuning:
    """Settings with checked numbers and a chosen precision."""
    import torch

    if tuning.precision not in PRECISIONS:
        raise CloudsError(
            f"there is no precision `{tuning.precision}`", f"choose one of {', '.join(PRECISIONS)}"
        )
    counts = (tuning.rank, tuning.steps, tuning.batch, tuning.height or 1, tuning.width or 1)
    if min(counts) < 1 or tuning.lr <= 0 or tuning.prior_weight < 0:
        raise CloudsError(
            f"rank {tuning.rank}, steps {tuning.steps}, batch {tuning.batch}, lr {tuning.lr}, "
            f"height {tuning.height}, width {tuning.width} and prior weight {tuning.prior_weight} "
            "cannot be used",
            "counts from 1, lr above 0, the weight from 0",
        )
    if tuning.precision != "auto":
        return tuning
    if device == "cpu":
        return replace(tuning, precision="fp32")
    return replace(tuning, precision="bf16" if torch.cuda.is_bf16_supported() else "fp16")


def _check(
    model: str,
    prompt: str,
    class_prompt: str | None,
    class_images: str | Path | None,
    class_count: int,
    checkpoint_every: int,
) -> None:
    """Raises an error for missing or contradictory arguments."""
    if model == STREETS:
        raise CloudsError(f"`{STREETS}` takes no LoRA", "name a diffusion model")
    if not prompt.strip() or (class_prompt is not None and not class_prompt.strip()):
        raise CloudsError("a prompt is empty", "describe the images: --prompt 'a photo of a sks street'")
    if class_images is not None and class_prompt is None:
        raise CloudsError(
            f"a prompt for the images in {class_images} is missing",
            "give --class-prompt 'a photo of a street'",
        )
    if class_count < 1 or checkpoint_every < 1:
        raise CloudsError(
            f"{class_count} class images, a checkpoint every {checkpoint_every} steps", "each is 1 at least"
        )


def _draw_class(run: LoraRun, model: str, prompt: str, count: int, seed: int, tuning: Tuning) -> Shots:
    """Images of the class, generated by the model itself, or already there from before a kill."""
    folder = run.out / CLASS
    if not (folder / MANIFEST).is_file():
        wanted = Settings(tuning.height, tuning.width, precision=tuning.precision)
        painter = Diffusion(model, wanted)
        check_tunable(painter.pipeline, model)
        run.begin()
        facts = {**painter.describe(), "prompt": prompt, "seed": seed, "count": count, "batch": _CLASS_BATCH}
        run_generate(GenerateWork(lambda: painter, [prompt], facts), folder)
    if not read_manifest(folder, KIND)["images"]:
        raise CloudsError(
            f"{model} made no image of `{prompt}`: see {folder}", "give some with --class-images"
        )
    return Shots(folder / IMAGES, flip=tuning.flip)
