"""SAM's channel-wise LayerNorm as one operation.

`segment_anything` computes it from means, powers and roots. No backend recognises that as a LayerNorm,
and in half precision the squares overflow. With the channels last it is a single operation.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor


def channels_last_norm(norm: Any, x: Tensor) -> Tensor:
    """Normalises the last dimension with a `LayerNorm2d`'s weights.

    Args:
        norm: A `segment_anything.modeling.common.LayerNorm2d`.
        x: (..., C).

    Returns:
        (..., C), equal to `norm` on the same values with their channels in the second dimension.
    """
    return F.layer_norm(x, (x.shape[-1],), norm.weight, norm.bias, norm.eps)


def channels_first_norm(norm: Any, x: Tensor) -> Tensor:
    """Normalises the second of four dimensions; see `channels_last_norm`.

    Args:
        norm: A `segment_anything.modeling.common.LayerNorm2d`.
        x: (B, C, H, W).

    Returns:
        (B, C, H, W).
    """
    return channels_last_norm(norm, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
