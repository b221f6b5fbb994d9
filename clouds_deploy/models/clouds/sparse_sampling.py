"""Sums of sampled rows as one sparse matrix product, the fastest way on a CPU.

Bilinear sampling is linear in the sampled values: it is the product of a sparse matrix, with one row per
query and head and one entry per neighbour of a sampled position, and the values. So its forward and the
gradient of the values are sparse-dense products, which MKL computes in parallel without storing the samples,
and the gradient of the entries is a product sampled at the matrix's entries. docs/explanation/head.md
compares it with the other forms.

The operator is registered with PyTorch, so that `torch.compile` keeps it in its graph as it is.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("clouds_deploy::sum_rows", mutates_args=())
def sum_rows(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Weighted sums of rows.

    Args:
        rows: (R, D) float32.
        index: (M, K) int32, 0..R-1.
        weight: (M, K) float32.

    Returns:
        (M, D) float32: sum over k of weight[m, k] * rows[index[m, k]].
    """
    return _matrix(index, weight, rows.shape[0]) @ rows


def _matrix(index: Tensor, weight: Tensor, columns: int) -> Tensor:
    count, entries = index.shape
    starts = torch.arange(0, count * entries + 1, entries, dtype=torch.int32, device=index.device)
    return _csr(starts, index.reshape(-1), weight.reshape(-1), (count, columns))


def _csr(starts: Tensor, columns: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, shape, check_invariants=False)


@sum_rows.register_fake
def _(rows: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    return rows.new_empty(index.shape[0], rows.shape[1])


@torch.library.custom_op("clouds_deploy::sum_rows_backward", mutates_args=())
def sum_rows_backward(gradient: Tensor, rows: Tensor, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `sum_rows` with respect to rows (R, D) and weight (M, K)."""
    count, entries = index.shape
    columns, order = torch.sort(index.reshape(-1))
    starts = torch.searchsorted(
        columns, torch.arange(rows.shape[0] + 1, dtype=torch.int32, device=index.device), out_int32=True
    )
    values = weight.reshape(-1).index_select(0, order)
    owners = torch.div(order, entries, rounding_mode="floor").to(torch.int32)
    by_row = _csr(starts, owners, values, (rows.shape[0], count)) @ gradient
    places = _matrix(index, torch.zeros_like(weight), rows.shape[0])
    by_weight = torch.sparse.sampled_addmm(places, gradient, rows.t()).values()
    return by_row, by_weight.reshape(count, entries)


@sum_rows_backward.register_fake
def _(gradient: Tensor, rows: Tensor, index: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(rows), torch.empty_like(weight)


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor]:
    rows, index, weight = ctx.saved_tensors
    by_row, by_weight = sum_rows_backward(gradient.contiguous(), rows, index, weight)
    return by_row, None, by_weight


sum_rows.register_autograd(_backward, setup_context=_keep)
for _operator in (sum_rows, sum_rows_backward):
    _operator.register_autocast("cpu", torch.float32)  # sparse products have no shorter type
