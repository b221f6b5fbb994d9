"""Multi-scale deformable attention in interchangeable forms, without a compiled extension.

Every query attends to a few learned positions on each feature map instead of all of it (Deformable DETR, Zhu
et al. 2021, equation 3). The forms below give the same results with different speed and compatibility:
`grid_sample` is the usual one; `gather` spells out the bilinear lookup as index arithmetic, because at least
TensorRT 10.14 to 11.1 miscompile the former; `sparse` makes the lookup a sparse matrix product, which is the
fastest on a CPU, eager or compiled, forward and backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.clouds.sparse_sampling import sum_rows

Shapes = Sequence[tuple[int, int]]
Offsets = tuple[Tensor, Tensor]
Form = Literal["grid_sample", "gather", "sparse"]
BORDER = 2
"""Rows and columns of zeros around a map; positions outside are clamped into them."""


def sample_grid(value: Tensor, shapes: Shapes, centers: Tensor, offsets: Offsets, weights: Tensor) -> Tensor:
    """Deformable sampling by `torch.nn.functional.grid_sample`.

    Args:
        value: (B, sum of h*w, heads, D): all levels flattened, one after the other.
        shapes: (h, w) of every level.
        centers: (N, 2) x then y of every query, 0..1 within each level.
        offsets: From the centres, x and y, each (B, N, heads, levels, points) in pixels of the
            level; outside is zero.
        weights: (B, N, heads, levels, points), summing to 1 over levels and points.

    Returns:
        (B, N, heads * D): the weighted sums of bilinear samples.
    """
    batch, queries, heads, _, points = weights.shape
    depth = value.shape[-1]
    output: Tensor | None = None
    start = 0
    for level, (height, width) in enumerate(shapes):
        rows = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = rows.reshape(batch * heads, depth, height, width)
        moved = [  # sizes as numbers: a tensor of them would be a copy that a CUDA graph cannot record
            centers[:, axis].view(1, queries, 1, 1) + offset[:, :, :, level] / size
            for axis, offset, size in zip((0, 1), offsets, (width, height), strict=True)
        ]
        grid = (2 * torch.stack(moved, -1) - 1).transpose(1, 2).reshape(batch * heads, queries, points, 2)
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, points)
        part = (samples * weight).sum(dim=3)
        output = part if output is None else output + part
        start += height * width
    assert output is not None
    return (
        output.view(batch, heads, depth, queries).permute(0, 3, 1, 2).reshape(batch, queries, heads * depth)
    )


def sample_gather(
    value: Tensor, shapes: Shapes, centers: Tensor, offsets: Offsets, weights: Tensor
) -> Tensor:
    """Deformable sampling by gathering four neighbours; arguments and result as `sample_grid`."""
    batch, queries, heads, levels, points = weights.shape
    depth, entries = value.shape[-1], levels * points
    rows = _bordered(value, shapes)
    output: Tensor | None = None
    for index, weight in _neighbours(shapes, centers, offsets, weights):
        samples = rows.index_select(0, index.flatten()).view(-1, entries, depth)
        part = torch.bmm(weight.reshape(-1, 1, entries).to(samples.dtype), samples)
        output = part if output is None else output + part
    assert output is not None
    return output.view(batch, queries, heads * depth)


def sample_sparse(
    value: Tensor, shapes: Shapes, centers: Tensor, offsets: Offsets, weights: Tensor
) -> Tensor:
    """Deformable sampling by a sparse matrix product; arguments and result as `sample_grid`."""
    batch, queries, heads, levels, points = weights.shape
    parts = _neighbours(shapes, centers, offsets, weights)
    entries = len(parts) * levels * points
    index = torch.cat([index.flatten(3) for index, _ in parts], -1).view(-1, entries)
    weight = torch.cat([weight.flatten(3) for _, weight in parts], -1).view(-1, entries)
    output: Tensor = sum_rows(_bordered(value, shapes), index, weight)
    return output.view(batch, queries, heads * value.shape[-1])


def _bordered(value: Tensor, shapes: Shapes) -> Tensor:
    """Rows of D values of all maps, each padded with zeros to one common width.

    The rows of (B, (sum of h + 2 * BORDER) * width * heads, D), all images one after the other.
    """
    batch, _, heads, depth = value.shape
    flat = value.reshape(batch, -1, heads * depth)
    wide = _wide(shapes)
    parts, start = [], 0
    for height, width in shapes:
        part = flat[:, start : start + height * width].reshape(batch, height, width, heads * depth)
        part = F.pad(part, (0, 0, BORDER, wide - BORDER - width, BORDER, BORDER))
        parts.append(part.reshape(batch, -1, heads * depth))
        start += height * width
    return torch.cat(parts, 1).reshape(-1, depth)


def _wide(shapes: Shapes) -> int:
    return max(width for _, width in shapes) + 2 * BORDER


def _neighbours(
    shapes: Shapes, centers: Tensor, offsets: Offsets, weights: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """The four neighbours of every sampled position.

    A query's own pixel, which is known in advance, is kept separately as a whole number: the computed
    rest is a few pixels large, and precise enough in half precision.

    Returns:
        For each of the four: index (B, N, heads, levels, points) int32 into the rows of `_bordered`; weight
        of the same shape: bilinear times attention.
    """
    batch, _, heads = weights.shape[:3]
    device, wide = weights.device, _wide(shapes)
    sizes = torch.tensor([[w, h] for h, w in shapes], device=device, dtype=torch.int32)
    own = centers[:, None] * sizes - 0.5  # (N, levels, 2)
    pixel = own.floor()
    rest = own - pixel
    furthest = 2.0 * max(max(shape) for shape in shapes) + 2 * BORDER
    corners, shares = [], []
    for axis, offset in enumerate(offsets):
        moved = (rest[None, :, None, :, None, axis] + offset).clamp(-furthest, furthest)
        low = moved.floor()
        shares.append(moved - low)
        corner = low.to(torch.int32) + pixel[None, :, None, :, None, axis].to(torch.int32)
        # one pixel inside the border is enough: both neighbours are zeros
        corners.append(torch.minimum(corner.clamp(min=-BORDER), sizes[:, axis].view(1, 1, 1, -1, 1)))
    lines = [height + 2 * BORDER for height, _ in shapes]
    starts = [sum(lines[:level]) for level in range(len(lines))]
    first = torch.tensor([(s + BORDER) * wide + BORDER for s in starts], device=device, dtype=torch.int32)
    base = first.view(-1, 1) * heads + torch.arange(heads, device=device, dtype=torch.int32).view(-1, 1, 1)
    if batch != 1:
        image = torch.arange(batch, device=device, dtype=torch.int32).view(batch, 1, 1, 1, 1)
        base = base + image * (sum(lines) * wide * heads)
    index = corners[1] * (wide * heads) + corners[0] * heads + base
    below = weights * shares[1]
    above = weights - below
    above_right, below_right = above * shares[0], below * shares[0]
    return [
        (index, above - above_right),
        (index + heads, above_right),
        (index + wide * heads, below - below_right),
        (index + (wide + 1) * heads, below_right),
    ]


SAMPLERS: dict[str, Callable[[Tensor, Shapes, Tensor, Offsets, Tensor], Tensor]] = {
    "grid_sample": sample_grid,
    "gather": sample_gather,
    "sparse": sample_sparse,
}


_MKL = torch.backends.mkl.is_available()  # torch.compile cannot evaluate it


def best_form(device: torch.device) -> Form:
    """Form that is fastest in PyTorch on a device, for training and inference.

    Returns:
        `sparse` on a CPU whose PyTorch has MKL, otherwise `grid_sample`. Graphs are exported with `gather`.
    """
    return "sparse" if device.type == "cpu" and _MKL else "grid_sample"


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections (docs/explanation/method.md 2.2).

    Args:
        width: Channels of queries and values.
        heads: Attention heads; divides `width`.
        levels: Feature maps.
        points: Sampled positions per head, level and query.

    Attributes:
        form: The form in use; None means `best_form` of the device.
    """

    def __init__(self, width: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.heads, self.levels, self.points = heads, levels, points
        self.form: Form | None = None
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_projection = nn.Linear(width, width)
        self.output_projection = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises: head k attends in direction k, point p at distance p (Deformable DETR)."""
        nn.init.zeros_(self.sampling_offsets.weight)
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        compass = torch.stack((angle.cos(), angle.sin()), dim=1)
        compass = compass / compass.abs().max(dim=1, keepdim=True).values
        steps = torch.arange(1, self.points + 1, dtype=torch.float32).view(1, 1, -1, 1)
        offsets = compass.view(self.heads, 1, 1, 2).expand(-1, self.levels, self.points, -1) * steps
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_projection, self.output_projection):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, value: Tensor, centers: Tensor, shapes: Shapes) -> Tensor:
        """Attention of all queries.

        Args:
            query: (B, N, width), positions already added.
            value: (B, sum of h*w, width).
            centers: (N, 2) x, y of every query in 0..1, the same on every level.
            shapes: (h, w) of every level.

        Returns:
            (B, N, width). Positions and weights are float32 under any autocast.
        """
        batch, queries, width = query.shape
        split = (batch, queries, self.heads, self.levels, self.points)
        values = self.value_projection(value).view(batch, -1, self.heads, width // self.heads)
        layer = self.sampling_offsets  # x and y interleaved, as published; separate products need no slicing
        weight, bias = layer.weight.view(-1, 2, width), layer.bias.view(-1, 2)
        x, y = (F.linear(query, weight[:, i], bias[:, i]).float().view(split) for i in (0, 1))
        weights = self.attention_weights(query).float().view(batch, queries, self.heads, -1).softmax(-1)
        form = self.form or best_form(query.device)
        sampled = SAMPLERS[form](values.float(), shapes, centers, (x, y), weights.view(split))
        return self.output_projection(sampled.to(values.dtype))  # type: ignore[no-any-return]
