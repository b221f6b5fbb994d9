"""Multi-scale deformable attention in interchangeable forms, without a compiled extension.

Every query looks at a few learned places on each feature map instead of at all of it (Deformable DETR, Zhu
et al. 2021, equation 3). The forms below compute the same numbers; they differ in what runs and compiles
well. `grid_sample` is the usual one; `gather` spells the bilinear lookup out in index arithmetic, because
TensorRT 10.14 to 11.1 at least miscompile the other; `sparse` makes the lookup a sparse matrix product, which
is the quickest on a CPU, eager or compiled, forward and backward.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clouds_deploy.models.sparse_sampling import sum_rows

Shapes = Sequence[tuple[int, int]]
Form = Literal["grid_sample", "gather", "sparse"]


def sample_grid(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample by `torch.nn.functional.grid_sample`.

    Args:
        value: (B, sum of h*w, heads, D): all levels flattened, one after the other.
        shapes: (h, w) of every level.
        locations: (B, N, heads, levels, points, 2): x then y, 0..1 within each level; outside reads zero.
        weights: (B, N, heads, levels, points), summing to 1 over levels and points.

    Returns:
        (B, N, heads * D): the weighted sums of bilinear samples.
    """
    batch, queries, heads, _, points, _ = locations.shape
    depth = value.shape[-1]
    grids = 2 * locations - 1
    output: Tensor | None = None
    start = 0
    for level, (height, width) in enumerate(shapes):
        rows = value[:, start : start + height * width].permute(0, 2, 3, 1)
        maps = rows.reshape(batch * heads, depth, height, width)
        grid = grids[:, :, :, level].permute(0, 2, 1, 3, 4).reshape(batch * heads, queries, points, 2)
        samples = F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        weight = weights[:, :, :, level].permute(0, 2, 1, 3).reshape(batch * heads, 1, queries, points)
        part = (samples * weight).sum(dim=3)
        output = part if output is None else output + part
        start += height * width
    assert output is not None
    return (
        output.view(batch, heads, depth, queries).permute(0, 3, 1, 2).reshape(batch, queries, heads * depth)
    )


def sample_gather(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample by gathering the four neighbours of every place; arguments and result as `sample_grid`."""
    batch, queries, heads = locations.shape[:3]
    depth = value.shape[-1]
    rows = value.reshape(-1, depth)
    output: Tensor | None = None
    for index, weight in _neighbours(shapes, locations, weights):
        samples = rows.index_select(0, index.flatten()).view(-1, index.shape[-1], depth)
        part = torch.bmm(weight.reshape(-1, 1, index.shape[-1]).to(samples.dtype), samples)
        output = part if output is None else output + part
    assert output is not None
    return output.view(batch, queries, heads * depth)


def sample_sparse(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Sample by a product with the sparse matrix of all neighbours; arguments and result as `sample_grid`."""
    batch, queries, heads = locations.shape[:3]
    depth = value.shape[-1]
    parts = list(_neighbours(shapes, locations, weights))
    index = torch.cat([index for index, _ in parts], dim=-1)
    weight = torch.cat([weight for _, weight in parts], dim=-1)
    entries = index.shape[-1]
    output: Tensor = sum_rows(value.reshape(-1, depth), index.view(-1, entries), weight.view(-1, entries))
    return output.view(batch, queries, heads * depth)


def _neighbours(shapes: Shapes, locations: Tensor, weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Find the four neighbours of every place, level by level.

    A neighbour outside its map gets weight zero and a clamped index, which is what zero padding means.

    Yields:
        index (B, N, heads, points * 4) int32 into the values of all images, levels and heads, one after the
        other; weight of the same shape: bilinear times attention.
    """
    batch, _, heads = locations.shape[:3]
    device = locations.device
    total = sum(height * width for height, width in shapes)
    image = torch.arange(batch, device=device, dtype=torch.int32).view(batch, 1, 1, 1) * (total * heads)
    base = image + torch.arange(heads, device=device, dtype=torch.int32).view(1, 1, heads, 1)
    start = 0
    for level, (height, width) in enumerate(shapes):
        # one pixel outside is far enough: bilinear weights vanish there
        x = (locations[:, :, :, level, :, 0] * width - 0.5).clamp(-1.0, float(width))
        y = (locations[:, :, :, level, :, 1] * height - 0.5).clamp(-1.0, float(height))
        left, top = x.floor(), y.floor()
        share_x, share_y = x - left, y - top
        column, row = left.to(torch.int32), top.to(torch.int32)
        columns = torch.stack((column, column + 1), dim=-1)  # (B, N, heads, points, 2)
        lines = torch.stack((row, row + 1), dim=-1)
        weight_x = torch.stack((1 - share_x, share_x), dim=-1) * _inside(columns, width, x.dtype)
        weight_y = torch.stack((1 - share_y, share_y), dim=-1) * _inside(lines, height, x.dtype)
        corner = lines.clamp(0, height - 1).unsqueeze(-1) * width + columns.clamp(0, width - 1).unsqueeze(-2)
        weight = weight_y.unsqueeze(-1) * weight_x.unsqueeze(-2) * weights[:, :, :, level, :, None, None]
        yield (corner.flatten(3) + start) * heads + base, weight.flatten(3)
        start += height * width


def _inside(index: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    return ((index >= 0) & (index < size)).to(dtype)


SAMPLERS: dict[str, Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]] = {
    "grid_sample": sample_grid,
    "gather": sample_gather,
    "sparse": sample_sparse,
}


_MKL = torch.backends.mkl.is_available()  # torch.compile cannot look it up itself


def best_form(device: torch.device) -> Form:
    """Choose the form that PyTorch runs fastest on a device, for training and inference alike.

    Returns:
        `sparse` on a CPU whose PyTorch has MKL, otherwise `grid_sample`. Graphs are exported with `gather`.
    """
    return "sparse" if device.type == "cpu" and _MKL else "grid_sample"


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention with its projections (docs/method.md 2.2).

    Args:
        width: Channels of queries and values.
        heads: Attention heads; divides `width`.
        levels: Feature maps.
        points: Sampled places per head, level and query.

    Attributes:
        form: The form to use; None means `best_form` of the device.
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
        """Start as a compass: head k looks in direction k, point p at distance p (Deformable DETR)."""
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
        """Attend.

        Args:
            query: (B, N, width), positions already added.
            value: (B, sum of h*w, width).
            centers: (N, 2) x, y of every query in 0..1, the same on every level.
            shapes: (h, w) of every level.

        Returns:
            (B, N, width). Locations and weights are float32 whatever the autocast precision.
        """
        batch, queries, width = query.shape
        split = (batch, queries, self.heads, self.levels, self.points)
        values = self.value_projection(value).view(batch, -1, self.heads, width // self.heads)
        offsets = self.sampling_offsets(query).float().view(*split, 2)
        weights = self.attention_weights(query).float().view(batch, queries, self.heads, -1).softmax(-1)
        sizes = [[float(w), float(h)] for h, w in shapes]
        scale = torch.tensor(sizes, device=query.device).view(1, 1, 1, self.levels, 1, 2)
        locations = centers.view(1, queries, 1, 1, 1, 2) + offsets / scale
        form = self.form or best_form(query.device)
        sampled = SAMPLERS[form](values.float(), shapes, locations, weights.view(split))
        return self.output_projection(sampled.to(values.dtype))  # type: ignore[no-any-return]
