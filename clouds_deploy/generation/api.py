"""The verbs of this package, as Python functions."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError
from clouds_deploy.generation import prompts as prompts_module
from clouds_deploy.generation.images import generate_images
from clouds_deploy.generation.load_writer import PACKAGED, load_writer
from clouds_deploy.generation.painter import STREETS, Settings, load_painter
from clouds_deploy.generation.writer import Sampling
from clouds_deploy.jobs.storage import is_url


def write_prompts(
    out: str | Path,
    *,
    count: int = 100,
    model: str = PACKAGED,
    form: str = "slots",
    seed: int = 0,
    temperature: float = 0.6,
    top_p: float = 0.8,
    replace: bool = False,
) -> dict[str, Any]:
    """Have a language model write prompts into a folder (CLOUDS, section 3.2: "Prompts").

    Args:
        out: The folder: `prompts.txt`, what each is about in `prompts.jsonl`, `refused.jsonl`, a manifest.
        count: How many.
        model: See `load_writer`.
        form: `slots` or `sentence`, see `prompts.FORMS`.
        seed: The same settings give the same prompts on the same machine.
        temperature: Above 0.
        top_p: Above 0, to 1.
        replace: Whether the folder may be replaced.

    Returns:
        The manifest, `out`, and a few `examples`.

    Raises:
        CloudsError: A setting is wrong, `out` exists, the model cannot be had or cannot write prompts.
    """
    folder = Path(out)
    if form not in prompts_module.FORMS:
        raise CloudsError(f"there is no form `{form}`", f"choose one of {', '.join(prompts_module.FORMS)}")
    if count < 1 or temperature <= 0 or not 0 < top_p <= 1:
        raise CloudsError(
            f"count {count}, temperature {temperature} and top_p {top_p} cannot be used",
            "count from 1, temperature above 0, top_p above 0 and up to 1",
        )
    if folder.exists() and not replace:
        raise CloudsError(f"{folder} exists already", "choose another --out, or say --replace")
    writer = load_writer(model, Sampling(temperature, top_p))
    written = prompts_module.write_prompts(writer, count, seed, form=form)
    facts = {"form": form, "seed": seed, "temperature": temperature, "top_p": top_p, **writer.describe()}
    manifest = prompts_module.save_prompts(written, folder, replace=replace, **facts)
    return {**manifest, "out": str(folder), "examples": written.prompts[:5]}


def generate(
    out: str | Path,
    *,
    prompts: str | Path | None = None,
    model: str = STREETS,
    count: int | None = None,
    seed: int = 0,
    batch: int = 4,
    shard: str = "0/1",
    attempts: int = 3,
    adapter: str | None = None,
    adapter_scale: float = 1.0,
    suffix: str = "",
    settings: Settings | None = None,
    shards: bool = False,
    runner: str = "local",
) -> dict[str, Any]:
    """Make images of prompts (CLOUDS, section 3.2: "Image generation"), or go on making them.

    Args:
        out: The folder: `images/`, a contact sheet and a manifest when all shards are done.
        prompts: A folder that `write_prompts` made, or a text file with one prompt a line.
        model: `streets`, or a text-to-image pipeline by hub id or folder; see `diffusion.load_painter`.
        count: Images in all; as many as prompts by default.
        seed: Of the run; each image's noise derives from it and the image's number.
        batch: Images made at once; it is among the settings, for kernels may round by it.
        shard: `k/n`: this process makes every n-th image, from number k; start one for each k from 0.
        attempts: Draws of an image that is blank or refused.
        adapter: A LoRA of the model: what `tune_diffusion` made, a hub id, a folder or a file.
        adapter_scale: How strongly it acts; 0 is the model without it.
        suffix: Put after every prompt: the words that a LoRA was tuned on.
        settings: How images are made.
        shards: Whether to write tar shards.
        runner: `local`, or `ray`: on all machines of a Ray cluster.

    Returns:
        See `images.generate_images`.

    Raises:
        CloudsError: A setting is wrong, there are no prompts, the model cannot be had, or `out` holds images
            of other settings.
    """
    chosen = settings or Settings()
    texts = [text + suffix for text in _read_prompts(Path(prompts))] if prompts is not None else []
    if not texts and model != STREETS:
        raise CloudsError(f"{model} needs prompts", "make some: clouds-deploy prompts --out prompts")
    if not texts and count is None:
        raise CloudsError("it isn't said how many images to draw", "give --count, or --prompts")
    wanted = len(texts) if count is None else count
    number, _, parts = shard.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise CloudsError(f"`{shard}` is no shard", "0/2 is the first of two, 1/2 the second")
    if wanted < 1 or batch < 1 or attempts < 1:
        raise CloudsError(f"count {wanted}, batch {batch}, attempts {attempts}", "each is 1 at least")
    painter = load_painter(model, chosen, adapter, adapter_scale)
    facts = {
        **painter.describe(),
        **asdict(chosen),
        "seed": seed,
        "count": wanted,
        "batch": batch,
        "attempts": attempts,
        "shards": int(parts),
        "prompts_sha256": hashlib.sha256("\n".join(texts).encode()).hexdigest(),
    }
    if shards or runner != "local" or is_url(out):
        from clouds_deploy.generation.generate_units import GenerateWork, generate_units
        from clouds_deploy.jobs.ray import load_runner

        if parts != "1":
            raise CloudsError(
                f"--shard {shard} is for processes that share a folder", "leave it out: here units are shared"
            )
        make = partial(load_painter, _absolute(model), chosen, _absolute(adapter), adapter_scale)
        work = GenerateWork(make, texts or [""], facts)
        return generate_units(work, out, shards=shards, runner=load_runner(runner))
    return generate_images(
        painter, texts or [""], Path(out), facts, count=wanted, seed=seed, batch=batch,
        shard=(int(number), int(parts)), attempts=attempts,
    )  # fmt: skip


def _absolute(model: Any) -> Any:
    """Give a model's folder a path that means the same in another process; names stay."""
    return str(Path(model).absolute()) if model and Path(model).exists() else model


def _read_prompts(path: Path) -> list[str]:
    file = path / prompts_module.TEXT if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CloudsError(
            f"{file} holds no prompts: {error}", "give a text file with one prompt a line"
        ) from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise CloudsError(f"{file} holds no prompts", "give a text file with one prompt a line")
    return found
