"""Codebooks of ascending centroids: the nearest centroid of a value, and centroids on an integer grid."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench.quant.affine import QParams, choose_qparams, integer_grid, quantize


def nearest_indices(values: Tensor, centroids: Tensor) -> Tensor:
    """The index of each value's nearest centroid, the lower of two equally near ones; of equal centroids the first.

    Args:
        values: Finite values, float32, [C, M].
        centroids: Ascending, float32, [C, K] for one codebook per row or [K] for one of all rows; K <= 256.

    Returns:
        uint8, [C, M].
    """
    shared = centroids.dim() == 1
    rows = values.reshape(1, -1) if shared else values
    table = centroids.reshape(1, -1) if shared else centroids
    wide = table.double()
    middle = (wide[:, 1:] + wide[:, :-1]) / 2
    found = torch.searchsorted(middle.contiguous(), rows.double().contiguous())  # how many are below the value
    place = torch.arange(table.shape[1], device=table.device).expand(table.shape)
    repeats = torch.zeros_like(table, dtype=torch.bool)
    repeats[:, 1:] = table[:, 1:] == table[:, :-1]
    first = torch.where(repeats, torch.zeros_like(place), place).cummax(dim=1).values
    return first.gather(1, found).to(torch.uint8).reshape(values.shape)


def snap_to_grid(centroids: Tensor, bits: int = 8) -> tuple[Tensor, QParams]:
    """Round centroids to a symmetric integer grid that covers them.

    Args:
        centroids: Finite, float32, [K] or [C, K]: one codebook, or one per row.
        bits: Of the grid, 2..16.

    Returns:
        Codes in [-(2^(bits-1) - 1), 2^(bits-1) - 1] of the shape of ``centroids``, still ascending where these were;
        scale [] or [C], zero points 0. A codebook of zeros gets scale 1.
    """
    qmin, qmax = integer_grid(bits, narrow_range=True)
    qparams = choose_qparams(centroids.amin(-1), centroids.amax(-1), qmin, qmax, symmetric=True)
    scale, zero_point = qparams.scale[..., None], qparams.zero_point[..., None]
    return quantize(centroids, scale, zero_point, qmin, qmax), qparams


class _SharedValues(torch.autograd.Function):
    """table[indices]; the gradient of an entry is the sum over its members, as autograd has it, but counted in bins."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.entries = table.numel()
        return table.index_select(0, indices.reshape(-1)).view(indices.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        sums = torch.bincount(indices.reshape(-1), gradient.reshape(-1), minlength=ctx.entries)
        return sums.to(gradient.dtype), None


def shared_values(table: Tensor, indices: Tensor) -> Tensor:
    """Look up shared values, differentiable in the table: dL/dtable[k] is the sum of dL/dvalue over all of index k.

    Args:
        table: float32, [T].
        indices: int32 or int64 in [0, T), any shape.

    Returns:
        float32, shaped like ``indices``.

    Source: Han et al., arXiv:1510.00149, sec. 3.3.
    """
    values: Tensor = _SharedValues.apply(table, indices)  # type: ignore[no-untyped-call]
    return values
