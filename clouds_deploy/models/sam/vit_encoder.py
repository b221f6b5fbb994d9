"""The official SAM's Vision Transformer, computed faster with the same results.

Source: SAM (Kirillov et al., 2023), appendix A "Image encoder"; ViTDet (Li et al., 2022) for windows among
global blocks; MViTv2 (Li et al., 2022), section 4.1, for the decomposed relative positions.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.sam.attention import attend
from clouds_deploy.models.sam.layer_norm import channels_last_norm
from clouds_deploy.models.sam.windows import Windows

AttentionForm = Literal["bias", "channels"]
"""Form of the relative positions in the attention. Both give the same results.

`bias`: a (N, N) bias for every head, added to the scores. `channels`: more channels of query and key, whose
product is that bias, q' = [q * scale, rows, columns] and k' = [k, one-hot row, one-hot column], so that a
fused attention needs no bias and a large bias is never stored.
"""


class VitEncoder(nn.Module):
    """A `segment_anything` ViT through fused attention, static shapes and no projection of padding.

    Args:
        encoder: A `segment_anything.modeling.ImageEncoderViT`; its weights are shared, not copied.
        window_form: Of the attention in windows.
        global_form: Of the attention in whole images.
    """

    def __init__(self, encoder: Any, *, window_form: AttentionForm, global_form: AttentionForm) -> None:
        super().__init__()
        self.encoder = encoder
        side = encoder.img_size // encoder.patch_embed.proj.kernel_size[0]
        self.grid = side
        self.blocks = nn.ModuleList(
            VitBlock(block, side, window_form if block.window_size else global_form)
            for block in encoder.blocks
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Encodes normalised images.

        Args:
            pixels: (B, 3, S, S) float32, zero where there is no image.

        Returns:
            (B, C, h, w) float32.
        """
        encoder, side = self.encoder, self.grid
        x = encoder.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
        if encoder.pos_embed is not None:
            x = x + encoder.pos_embed.flatten(1, 2)
        for block in self.blocks:
            x = block(x)
        reduce, first, spread, second = encoder.neck
        x = channels_last_norm(first, F.linear(x, reduce.weight.flatten(1)))
        x = spread(x.transpose(1, 2).reshape(-1, x.shape[-1], side, side))
        out: Tensor = channels_last_norm(second, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out.contiguous()


class VitBlock(nn.Module):
    """One block; see `VitEncoder`.

    Args:
        block: A `segment_anything.modeling.image_encoder.Block`.
        grid: Tokens along a side of the image.
        form: Of its attention.
    """

    def __init__(self, block: Any, grid: int, form: AttentionForm) -> None:
        super().__init__()
        self.block = block
        self.form: AttentionForm = form
        self.windows = Windows(grid, grid, block.window_size) if block.window_size else None
        self.side = block.window_size or grid
        steps = torch.arange(self.side)
        gaps = steps[:, None] - steps[None, :] + self.side - 1
        self.register_buffer("gaps", gaps.flatten(), persistent=False)
        if form == "channels":
            eye = torch.eye(self.side)
            one_hot = torch.cat((eye.repeat_interleave(self.side, 0), eye.repeat(self.side, 1)), 1)
            self.register_buffer("one_hot", one_hot, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Transforms tokens, (B, h*w, C) to the same."""
        y = self.block.norm1(x)
        windows = self.windows
        if windows is not None and windows.padded:  # after the norm: zeros, whose projection is the bias
            y = F.pad(y, (0, 0, 0, 1))
        q, k, v = (part if windows is None else windows.cut(part) for part in self._project(y))
        y = self._attend(q, k, v)
        x = x + self.block.attn.proj(y if windows is None else windows.join(y))
        out: Tensor = x + self.block.mlp(self.block.norm2(x))
        return out

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scaled queries, keys and values: three products, because one would have to be split."""
        attention = self.block.attn
        width = x.shape[-1]
        weight, bias = attention.qkv.weight.view(3, width, width), attention.qkv.bias.view(3, width)
        scale = attention.scale
        return (
            F.linear(x, weight[0] * scale, bias[0] * scale),
            F.linear(x, weight[1], bias[1]),
            F.linear(x, weight[2], bias[2]),
        )

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention (B', N, C) within each row of the batch; all inputs (B', N, C), queries scaled.

        Heads are transposed last, where backends merge the transposition with the product.
        """
        heads, count = self.block.attn.num_heads, self.side * self.side
        q, k, v = (t.unflatten(-1, (heads, -1)) for t in (q, k, v))
        by_row, by_column = self._positions(q)
        if self.form == "bias":
            by_row, by_column = by_row.transpose(1, 2), by_column.transpose(1, 2)
            bias = by_row[..., None] + by_column[..., None, :]
            bias = bias.reshape(-1, heads, count, count)
            return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 1.0, bias)
        one_hot = cast(Tensor, self.one_hot).to(k.dtype)[:, None].expand(k.shape[0], -1, heads, -1)
        q = torch.cat((q, by_row.to(q.dtype), by_column.to(q.dtype)), -1)
        k = torch.cat((k, one_hot), -1)
        return attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), 1.0)

    def _positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of every row and every column of keys for scaled queries (B', N, heads, D).

        Returns:
            Both (B', N, heads, side).
        """
        attention, side = self.block.attn, self.side
        gaps = cast(Tensor, self.gaps)
        rows, columns = (
            (table.index_select(0, gaps) / attention.scale).view(side, side, -1).transpose(1, 2)
            for table in (attention.rel_pos_h, attention.rel_pos_w)
        )
        heads, width = q.shape[-2:]
        by_row = q.reshape(-1, side, side * heads, width) @ rows
        by_column = q.reshape(-1, side, side, heads, width) @ columns
        shape = (-1, side * side, heads, side)
        return by_row.reshape(shape), by_column.reshape(shape)
