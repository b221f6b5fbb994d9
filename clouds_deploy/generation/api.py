"""The verbs of this package, as Python functions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clouds_deploy.errors import CloudsError
from clouds_deploy.generation import prompts
from clouds_deploy.generation.load_writer import PACKAGED, load_writer
from clouds_deploy.generation.writer import Sampling


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
    if form not in prompts.FORMS:
        raise CloudsError(f"there is no form `{form}`", f"choose one of {', '.join(prompts.FORMS)}")
    if count < 1 or temperature <= 0 or not 0 < top_p <= 1:
        raise CloudsError(
            f"count {count}, temperature {temperature} and top_p {top_p} cannot be used",
            "count from 1, temperature above 0, top_p above 0 and up to 1",
        )
    if folder.exists() and not replace:
        raise CloudsError(f"{folder} exists already", "choose another --out, or say --replace")
    writer = load_writer(model, Sampling(temperature, top_p))
    written = prompts.write_prompts(writer, count, seed, form=form)
    facts = {"form": form, "seed": seed, "temperature": temperature, "top_p": top_p, **writer.describe()}
    manifest = prompts.save_prompts(written, folder, replace=replace, **facts)
    return {**manifest, "out": str(folder), "examples": written.prompts[:5]}
