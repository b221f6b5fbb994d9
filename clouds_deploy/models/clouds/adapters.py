"""Adapters that tune a frozen backbone by a few parameters: low-rank updates, or learned tokens.

`lora` (Hu et al. 2021) and `soma` (Yun et al., CVPR 2025) add a low-rank matrix to some weights and are
folded into them before export, so they cost nothing when deployed. `rein` (Wei et al., CVPR 2024) refines
the output of every block by learned tokens; it follows the paper's equations and stays in the graph.

A low-rank layer is the library's own module with a few more parameters: its class changes to a subclass whose
`weight` is the sum, so code that reads the weight instead of calling the layer sees the update as well, and
all other names stay.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.config.model import AdapterConfig
from clouds_deploy.errors import CloudsError

if TYPE_CHECKING:
    from clouds_deploy.models.backbones.backbone import Backbone

DOWN = "adapter_down"
UP = "adapter_up"


def _updated(layer: nn.Module) -> Tensor:
    """Weight of a low-rank layer with its update: frozen + scale * up @ down."""
    parameters: dict[str, Any] = layer._parameters
    frozen: Tensor = parameters["weight"]
    scale: Any = layer.adapter_scale
    update = torch.matmul(parameters[UP], parameters[DOWN]).view(frozen.shape)
    return frozen + update * scale  # type: ignore[no-any-return]


class LowRankLinear(nn.Linear):
    """A linear layer with a low-rank update."""

    adapter_scale: float
    weight = property(_updated)

    def forward(self, x: Tensor) -> Tensor:
        """Applies the frozen weight and the update separately, without forming their sum."""
        parameters: dict[str, Any] = self._parameters
        update: Tensor = F.linear(F.linear(x, parameters[DOWN]), parameters[UP])
        plain: Tensor = F.linear(x, parameters["weight"], self.bias)
        return torch.add(plain, update, alpha=self.adapter_scale)


class LowRankConv2d(nn.Conv2d):
    """A convolution with a low-rank update of its weight, viewed as (out, in/groups * kernel)."""

    adapter_scale: float
    weight = property(_updated)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves with the updated weight."""
        return self._conv_forward(x, _updated(self), self.bias)  # type: ignore[no-any-return]


_ADAPTED: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: LowRankLinear, nn.Conv2d: LowRankConv2d}
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {adapted: plain for plain, adapted in _ADAPTED.items()}


def attach(backbone: Backbone, config: AdapterConfig) -> Backbone:
    """Puts adapters on a backbone whose weights are loaded, and freezes everything else in its trunk.

    Args:
        backbone: Changed in place; must be frozen.
        config: See `AdapterConfig`; kind `none` changes nothing.

    Returns:
        The backbone.

    Raises:
        CloudsError: The backbone is trainable, it has adapters already, or `targets` matches no layer.
    """
    if config.kind == "none":
        return backbone
    if backbone.trainable:
        raise CloudsError(
            f"a trainable backbone takes no `{config.kind}` adapter", "set model.backbone.trainable=false"
        )
    if backbone.adapted:
        raise CloudsError("the backbone has adapters already", "merge them first")
    if config.kind == "rein":
        backbone.adapter = _refine(backbone, config)
    else:
        for layer in _targets(backbone.trunk, config):
            _adapt(layer, config)
    backbone.adapted = True
    return backbone


def _targets(trunk: nn.Module, config: AdapterConfig) -> list[nn.Linear | nn.Conv2d]:
    """Layers to adapt: those named, or every linear layer and 1x1 convolution."""
    layers: list[nn.Linear | nn.Conv2d] = []
    for name, module in trunk.named_modules():
        if type(module) not in _ADAPTED:
            continue
        assert isinstance(module, (nn.Linear, nn.Conv2d))
        pointwise = isinstance(module, nn.Linear) or (module.kernel_size == (1, 1) and module.groups == 1)
        if pointwise if config.targets is None else re.search(config.targets, name):
            layers.append(module)
    if not layers:
        names = [name for name, module in trunk.named_modules() if type(module) in _ADAPTED]
        some = ", ".join(f"`{name}`" for name in names[:: max(len(names) // 4, 1)])
        raise CloudsError(
            f"model.backbone.adapter.targets `{config.targets}` matches no layer of the backbone",
            f"layers are called like {some}",
        )
    return layers


def _adapt(layer: nn.Linear | nn.Conv2d, config: AdapterConfig) -> None:
    """Adds the update to one layer: zero for LoRA, the weight's minor singular components for SoMA."""
    with torch.no_grad():
        frozen = layer.weight.detach().flatten(1)
        rank = min(config.rank, *frozen.shape)
        if config.kind == "soma":
            scale = 1.0
            up, down = _minor_components(frozen, rank)
            layer.weight.copy_((frozen.double() - up.double() @ down.double()).view(layer.weight.shape))
        else:
            scale = config.alpha / config.rank
            up = frozen.new_zeros(frozen.shape[0], rank)
            down = torch.empty_like(frozen[:rank])
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
    layer.register_parameter(DOWN, nn.Parameter(down))
    layer.register_parameter(UP, nn.Parameter(up))
    layer.__class__ = _ADAPTED[type(layer)]  # type: ignore[assignment]
    layer.adapter_scale = scale  # type: ignore[assignment]


def _minor_components(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Smallest singular components of a weight (out, in).

    Returns:
        up (out, rank) and down (rank, in); their product is U S V over the `rank` smallest singular values,
        and each holds the square root of S.
    """
    if weight.shape[0] > weight.shape[1]:
        up, down = _minor_components(weight.t(), rank)
        return down.t().contiguous(), up.t().contiguous()
    exact = weight.double()
    # the eigenvectors of W W' span the minor components; several times cheaper than a whole decomposition
    basis = torch.linalg.eigh(exact @ exact.t()).eigenvectors[:, :rank]
    u, s, v = torch.linalg.svd(basis.t() @ exact, full_matrices=False)
    root = s.sqrt()
    return (basis @ u * root).to(weight), (root.unsqueeze(1) * v).to(weight)


def unfilled(config: AdapterConfig) -> AdapterConfig:
    """Configuration with the same tensors and a cheap initialisation, for a model that will be filled.

    SoMA decomposes every weight at its start; a model that is loaded needs only the layers.
    """
    if config.kind != "soma":
        return config
    return config.model_copy(update={"kind": "lora", "alpha": float(config.rank)})


def merge_adapters(module: nn.Module) -> int:
    """Folds every low-rank update inside a module into its weight, for export.

    Afterwards classes, names and graph are those of the plain model; Rein's tokens cannot be folded.

    Args:
        module: A backbone, a segmenter or any module; changed in place.

    Returns:
        Number of folded layers.
    """
    layers = [layer for layer in module.modules() if type(layer) in _PLAIN]
    for layer in layers:
        with torch.no_grad():
            merged = _updated(layer)
        parameters = layer._parameters
        weight = parameters["weight"]
        assert weight is not None
        weight.data.copy_(merged)
        del parameters[DOWN], parameters[UP], layer.adapter_scale
        layer.__class__ = _PLAIN[type(layer)]
    for part in module.modules():
        if getattr(part, "adapted", False):  # a Backbone
            backbone: Any = part
            backbone.adapted = backbone.adapter is not None
    return len(layers)


class Rein(nn.Module):
    """Refinement of features after every block by learned tokens (Wei et al., CVPR 2024, equations 3 to 9).

    For block i with features f (N, c) and tokens T = A B (m, c), A (m, r), B (r, c):

        S = softmax(f T' / sqrt(c))
        d = S[:, 1:] (T[1:] W_T + b_T)
        f <- f + (d + f) W_f + b_f

    Features that match the first token get no d. W_T, b_T, W_f and b_f are shared by all blocks
    of one width; W_f and b_f start at zero, so the first step has the plain backbone. The paper's link from
    tokens to the decoder's queries is missing.

    Args:
        widths: Channels of the features after each block.
        tokens: m.
        rank: r.
    """

    def __init__(self, widths: list[int], tokens: int, rank: int) -> None:
        super().__init__()
        self.left = nn.ParameterList(torch.randn(tokens, rank) / math.sqrt(rank) for _ in widths)
        self.right = nn.ParameterList(torch.randn(rank, c) / math.sqrt(c) for c in widths)
        self.token_map = nn.ModuleDict({str(c): nn.Linear(c, c) for c in sorted(set(widths))})
        self.feature_map = nn.ModuleDict({str(c): nn.Linear(c, c) for c in sorted(set(widths))})
        for layer in self.feature_map.values():
            assert isinstance(layer, nn.Linear)
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def refine(self, index: int, features: Tensor) -> Tensor:
        """Refines the features after one block.

        Args:
            index: Of the block.
            features: (B, N, c).

        Returns:
            (B, N, c).
        """
        tokens = self.left[index] @ self.right[index]
        width = features.shape[-1]
        similarity = (features @ tokens.t() / math.sqrt(width)).softmax(-1)
        delta = similarity[..., 1:] @ self.token_map[str(width)](tokens[1:])
        return features + self.feature_map[str(width)](delta + features)  # type: ignore[no-any-return]

    def after_block(self, index: int, block: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        """Refines a block's output, as a forward hook; maps (B, c, h, w) become sequences of pixels."""
        if output.ndim == 3:
            return self.refine(index, output)
        pixels = self.refine(index, output.flatten(2).transpose(1, 2))
        return pixels.transpose(1, 2).reshape(output.shape)


def _refine(backbone: Backbone, config: AdapterConfig) -> Rein:
    """Adds token refinement to every block of a trunk: the members of lists called `blocks` or `layerN`."""
    blocks = [
        block
        for name, module in backbone.trunk.named_modules()
        if isinstance(module, (nn.Sequential, nn.ModuleList))
        and re.fullmatch(r"blocks|layer\d", name.rpartition(".")[2])
        for block in module
    ]
    if not blocks:
        raise CloudsError("`rein` finds no blocks in this backbone", "use `lora`, or a ViT or ConvNeXt")
    rein = Rein(_widths(backbone, blocks), config.tokens, config.rank)
    for index, block in enumerate(blocks):
        block.register_forward_hook(functools.partial(rein.after_block, index))
    return rein


def _widths(backbone: Backbone, blocks: list[nn.Module]) -> list[int]:
    """Output channels of each block, found by running a small image."""
    widths = [0] * len(blocks)

    def note(index: int, block: nn.Module, inputs: Any, output: Tensor) -> None:
        widths[index] = output.shape[-1] if output.ndim == 3 else output.shape[1]

    hooks = [b.register_forward_hook(functools.partial(note, i)) for i, b in enumerate(blocks)]
    with torch.no_grad():
        backbone(torch.zeros(1, 3, 64, 64, device=backbone.mean.device))
    for hook in hooks:
        hook.remove()
    return widths
