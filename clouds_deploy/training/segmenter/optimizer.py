"""AdamW as Mask2Former sets it up: no weight decay on norms and embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clouds_deploy.config.recipe import TrainConfig
from clouds_deploy.errors import CloudsError
from clouds_deploy.models.clouds.segmenter import Segmenter

_NORMS = (
    nn.LayerNorm,
    nn.GroupNorm,
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LocalResponseNorm,
)
_EMBEDDINGS = ("query_features", "query_embedding", "level_embedding")


def decayed(segmenter: Segmenter) -> dict[str, bool]:
    """Whether weight decay applies, for every trainable parameter.

    Norm layers, and the mask decoder's query and level embeddings, are exempt (`WEIGHT_DECAY_NORM` and
    `WEIGHT_DECAY_EMBED` of 0). Biases decay, and so does the pixel decoder's level embedding: it is a bare
    parameter there, which the original's rule for `nn.Embedding` does not reach.

    Returns:
        By parameter name, in the model's order.
    """
    exempt = {
        f"{path}.{name}" if path else name
        for path, module in segmenter.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if isinstance(module, _NORMS) or (module is segmenter.mask_decoder and name in _EMBEDDINGS)
    }
    return {name: name not in exempt for name, p in segmenter.named_parameters() if p.requires_grad}


def build_optimizer(segmenter: Segmenter, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with two groups, with and without weight decay; betas and epsilon are PyTorch's defaults."""
    parameters = dict(segmenter.named_parameters())
    rule = decayed(segmenter)
    groups = [
        {"params": [parameters[name] for name, decays in rule.items() if decays is wanted], "weight_decay": d}
        for wanted, d in ((True, config.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=config.lr, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Sets the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = value


def optimizer_tensors(optimizer: torch.optim.Optimizer, segmenter: Segmenter) -> dict[str, Tensor]:
    """State of the optimiser by name, `<parameter>:<slot>`, for a checkpoint."""
    state = optimizer.state
    return {
        f"{name}:{slot}": value
        for name, parameter in segmenter.named_parameters()
        if parameter in state
        for slot, value in state[parameter].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, segmenter: Segmenter, tensors: Mapping[str, Tensor], where: str
) -> None:
    """Restores the state that `optimizer_tensors` returned.

    Raises:
        CloudsError: A tensor belongs to no trainable parameter, or has another shape than it.
    """
    parameters = {name: p for name, p in segmenter.named_parameters() if p.requires_grad}
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, slot = key.rpartition(":")
        fits = name in parameters and (slot == "step" or tensor.shape == parameters[name].shape)
        if not fits:
            raise CloudsError(f"{where}: `{key}` fits no parameter of the model", "start the run again")
        state.setdefault(name, {})[slot] = tensor
    order = {id(p): number for number, p in enumerate(_in_order(optimizer))}
    saved: dict[str, Any] = optimizer.state_dict()
    saved["state"] = {order[id(parameters[name])]: slots for name, slots in state.items()}
    optimizer.load_state_dict(saved)


def _in_order(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
