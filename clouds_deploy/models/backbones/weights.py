"""Weights of backbones: from a hub, from a file, or random on request."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from clouds_deploy.config.model import BackboneConfig
from clouds_deploy.errors import CloudsError, first_line
from clouds_deploy.models.weights import read_weight_file

DEFAULT = "default"
RANDOM = "random"
Rename = Callable[[str], str]

_PREFIXES = ("", "visual.trunk.", "visual.", "trunk.", "model.")
_FLAT = re.compile(r"^([a-z]+)_(\d+)\.")


def load_file_or_random(trunk: nn.Module, config: BackboneConfig, rename: Rename | None = None) -> str:
    """Loads a file of the trunk's own tensors, or keeps the random initialisation on request.

    Args:
        trunk: The module to fill.
        config: Its `weights` names a file or says `random`.
        rename: From a name in the file to the trunk's, if the library changed its names.

    Returns:
        The provenance: `random` or `file <name>`.

    Raises:
        CloudsError: It is neither, or the file does not hold this trunk.
    """
    if config.weights == RANDOM:
        return RANDOM
    path = Path(config.weights)
    if not path.is_file():
        raise CloudsError(
            f"`{config.weights}` is neither known weights of `{config.name}` nor a file",
            "give `default`, a file's path, or `random` for a dry run",
        )
    state = read_weight_file(path)
    if rename is not None:
        state = {rename(name): tensor for name, tensor in state.items()}
    load_strict(trunk, state, str(path))
    return f"file {path.name}"


def load_strict(trunk: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Loads all tensors of the trunk, by exact name or under CLIP's prefixes.

    Other tensors of the file (a classifier, a text tower) are ignored.

    Args:
        trunk: The module to fill.
        state: Named tensors.
        where: Their source, for errors.

    Raises:
        CloudsError: A tensor is missing or of another shape; the message names it.
    """
    own = trunk.state_dict()
    found: dict[str, Tensor] = {}
    for prefix in _PREFIXES:
        names = {name: _present(prefix, name, state) for name in own}
        if all(names.values()):
            found = {name: state[there] for name, there in names.items() if there}
            break
    else:
        missing = [name for name in own if _present("", name, state) is None]
        raise CloudsError(
            f"{where} lacks {len(missing)} of the backbone's {len(own)} tensors, first `{missing[0]}`",
            "give the weights of this backbone",
        )
    wrong = [name for name in own if own[name].shape != found[name].shape]
    if wrong:
        raise CloudsError(
            f"{where}: `{wrong[0]}` has shape {list(found[wrong[0]].shape)}, not {list(own[wrong[0]].shape)}",
            "give the weights of this backbone",
        )
    trunk.load_state_dict(found)


def _present(prefix: str, name: str, state: Mapping[str, Tensor]) -> str | None:
    """Name of a tensor in the file; timm's feature extractors say `stages_0.x` for a file's `stages.0.x`."""
    for candidate in (prefix + name, prefix + _FLAT.sub(r"\1.\2.", name)):
        if candidate in state:
            return candidate
    return None


def hub_error(what: str, source: str, error: Exception) -> CloudsError:
    """Error about a hub's weights that cannot be downloaded, with two alternatives.

    Args:
        what: The model, as the recipe calls it.
        source: The hub id or URL.
        error: What the library raised.
    """
    return CloudsError(
        f"the weights {source} of {what} cannot be had: {first_line(error)}",
        "connect to the hub once, or give the file you have: model.backbone.weights=PATH, "
        "or model.backbone.weights=random for a dry run",
    )
