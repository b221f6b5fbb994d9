"""The official SAM's Vision Transformer, computed otherwise but to the same numbers.

Source: SAM (Kirillov et al., 2023), appendix A "Image encoder"; ViTDet (Li et al., 2022) for windows among
global blocks; MViTv2 (Li et al., 2022), section 4.1, for the decomposed relative positions.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.sam.attention import attend, split_heads
from clouds_deploy.models.sam.layer_norm import channels_last_norm
from clouds_deploy.models.sam.windows import Windows

AttentionForm = Literal["bias", "channels"]
"""How relative positions enter the attention. All forms give the same numbers.

`bias`: a (N, N) bias for every head, added to the scores. `channels`: more channels of query and key, whose
product is that bias, q' = [q * scale, rows, columns] and k' = [k, one-hot row, one-hot column], so that a
fused attention needs no bias and a large one is never written out.
"""


class VitEncoder(nn.Module):
    """A `segment_anything` ViT through fused attention, static shapes and no projection of padding.

    Args:
        encoder: A `segment_anything.modeling.ImageEncoderViT`; its weights are shared, not copied.
        window_form: How windows attend.
        global_form: How whole images attend.
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
        """Encode normalised images.

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
        form: How it attends.
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
        """Transform tokens, (B, h*w, C) to the same."""
        y = self.block.norm1(x)
        if self.windows is None:
            y = self._attend(self.block.attn.qkv(y))
        else:
            if self.windows.padded:  # after the norm, with zeros, which the projection makes its bias
                y = F.pad(y, (0, 0, 0, 1))
            y = self.windows.join(self._attend(self.windows.cut(self.block.attn.qkv(y))))
        x = x + self.block.attn.proj(y)
        out: Tensor = x + self.block.mlp(self.block.norm2(x))
        return out

    def _attend(self, qkv: Tensor) -> Tensor:
        """Attend within each row of the batch: (B', N, 3C) to (B', N, C)."""
        attention = self.block.attn
        heads, count = attention.num_heads, self.side * self.side
        q, k, v = (split_heads(t, heads) for t in qkv.chunk(3, -1))
        by_row, by_column = self._positions(q)
        if self.form == "bias":
            bias = by_row[..., None] + by_column[..., None, :]
            bias = bias.reshape(-1, heads, count, count)
            return attend(q, k, v, attention.scale, bias)
        one_hot = cast(Tensor, self.one_hot).to(k.dtype).expand(*k.shape[:2], -1, -1)
        q = torch.cat((q * attention.scale, by_row, by_column), -1)
        k = torch.cat((k, one_hot), -1)
        return attend(q, k, v, 1.0)

    def _positions(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Score every row and every column of keys for each query, both (B', heads, N, side)."""
        attention, side = self.block.attn, self.side
        gaps = cast(Tensor, self.gaps)
        rows, columns = (
            table.index_select(0, gaps).view(side, side, -1).transpose(1, 2)
            for table in (attention.rel_pos_h, attention.rel_pos_w)
        )
        grid = q.reshape(-1, attention.num_heads, side, side, q.shape[-1])
        by_row = grid @ rows
        by_column = (grid.transpose(2, 3) @ columns).transpose(2, 3)
        return by_row.flatten(2, 3), by_column.flatten(2, 3)
