"""The interface of all backbones: a library's trunk, its four maps, and its normalisation.

The method keeps the backbone frozen, in evaluation mode, and adds nothing to it
(docs/explanation/method.md 2.1). Two things may still learn around a frozen trunk: the pyramid that
turns a plain ViT's one map into four, and adapters (see `models.clouds.adapters`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Features = tuple[Tensor, Tensor, Tensor, Tensor]
"""res2, res3, res4, res5: (B, channels[i], H/4, W/4) ... (B, channels[3], H/32, W/32)."""

Taps = Callable[[Any, Tensor], Sequence[Tensor]]
"""(trunk, normalised image) -> its maps; a module-level function, so that a backbone can be pickled."""


class Tower(nn.Module):
    """Selected parts of a library's module, under their names there.

    A segmenter needs neither CLIP's projection nor a classifier. The library's module itself stays whole for
    other users, such as the text head.

    Args:
        source: The library's module; not changed, its parts are shared.
        names: Of its selected modules.
    """

    def __init__(self, source: nn.Module, names: Iterable[str]) -> None:
        super().__init__()
        for name in names:
            self.add_module(name, getattr(source, name))


class Backbone(nn.Module):
    """Four feature maps of an image.

    Args:
        trunk: The library's module, or the parts of it that are used.
        taps: Computes the trunk's maps of a normalised image (B, 3, H, W): four, or one for `neck`.
        channels: Channels of the four maps.
        mean: Per-channel RGB mean, in units of 0..255.
        std: Per-channel RGB standard deviation, in units of 0..255.
        trainable: False freezes the trunk's parameters and keeps its evaluation mode.
        weights: Source of the weights, for manifests and reports.
        neck: Makes four maps of the trunk's last one; it starts random and always learns.

    Attributes:
        adapter: Modules that an adapter adds beside the trunk; None for most kinds.
        adapted: Whether the trunk has adapters, so that gradients must run through it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        trunk: nn.Module,
        taps: Taps,
        channels: tuple[int, int, int, int],
        mean: tuple[float, float, float],
        std: tuple[float, float, float],
        *,
        trainable: bool,
        weights: str,
        neck: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.neck = neck
        self.adapter: nn.Module | None = None
        self.adapted = False
        self.channels = channels
        self.trainable = trainable
        self.weights = weights
        self._taps = taps
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self.trunk.requires_grad_(trainable)
        self.train(trainable)

    def train(self, mode: bool = True) -> Backbone:
        """Sets the mode; a frozen trunk always stays in evaluation mode.

        So its drop paths are never active, with adapters or without. Batch normalisation always uses its
        stored statistics: batches are too small to replace them, and each image's loss would depend on the
        others in its process. Its scale and shift are trained.
        """
        super().train(mode and (self.trainable or self.neck is not None))
        self.trunk.train(mode and self.trainable)
        for module in self.trunk.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()
        return self

    def normalize(self, image: Tensor) -> Tensor:
        """Normalises an RGB image as in the backbone's training.

        Args:
            image: (B, 3, H, W) float, 0..255.

        Returns:
            (B, 3, H, W) float, about zero mean and unit variance.
        """
        return (image - self.mean) / self.std

    def forward(self, image: Tensor) -> Features:
        """Computes the feature maps.

        Args:
            image: (B, 3, H, W), normalised; H and W multiples of 32.

        Returns:
            Maps at strides 4, 8, 16, 32. A frozen trunk without adapters builds no gradient graph.
        """
        if self.trainable or self.adapted:
            maps = self._taps(self.trunk, image)
        else:
            with torch.no_grad():
                maps = self._taps(self.trunk, image)
        if self.neck is not None:
            return self.neck(maps[-1])  # type: ignore[no-any-return]
        res2, res3, res4, res5 = maps
        return res2, res3, res4, res5
