"""Partition of a grid of tokens into windows, with one shared padding token."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class Windows(nn.Module):
    """Partition of a grid of tokens into square windows, and back.

    A grid whose sides are not multiples of the window is padded at the right and the bottom. The official
    code pads the input of the projection to query, key and value, and so projects the same padding token many
    times. Here the caller appends it once, as the last row, and each direction is one gather.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        window: Side of a window.
    """

    def __init__(self, height: int, width: int, window: int) -> None:
        super().__init__()
        self.window = window
        down, across = -(-height // window), -(-width // window)
        self.count = down * across
        self.padded = (down * window, across * window) != (height, width)
        places = torch.full((down * window, across * window), height * width, device="cpu")
        places[:height, :width] = torch.arange(height * width, device="cpu").view(height, width)
        cut = places.view(down, window, across, window).transpose(1, 2).reshape(-1)
        back = torch.empty(height * width + 1, dtype=torch.int64, device="cpu")
        back[cut] = torch.arange(cut.numel(), device="cpu")
        self.register_buffer("cut_index", cut, persistent=False)
        self.register_buffer("join_index", back[:-1].clone(), persistent=False)

    def cut(self, tokens: Tensor) -> Tensor:
        """Windows of a grid.

        Args:
            tokens: (B, H*W or H*W + 1, C); the last row is the padding, needed where `padded`.

        Returns:
            (B * count, window * window, C).
        """
        places = cast(Tensor, self.cut_index)
        area = self.window * self.window
        return tokens.index_select(1, places).reshape(-1, area, tokens.shape[-1])

    def join(self, windows: Tensor) -> Tensor:
        """Grid from its windows, without the padding.

        Args:
            windows: (B * count, window * window, C).

        Returns:
            (B, H*W, C).
        """
        rows = windows.reshape(-1, self.count * self.window * self.window, windows.shape[-1])
        return rows.index_select(1, cast(Tensor, self.join_index))
