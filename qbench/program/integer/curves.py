"""Activation functions as tables of codes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from qbench.program.integer.ops import Grid, Lookup
from qbench.quant.affine import code_dtype

CURVES: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "relu6": F.relu6,
    "hard_swish": F.hardswish,
    "hard_sigmoid": F.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": F.gelu,
}
_SATURATED = 16.0  # below minus this every curve is within 2e-6 of 0, above it within that of 1 or of the identity


def lookup(op: str, source: Grid, target: Grid, low: int, high: int) -> Lookup:
    """The table from every code of ``source`` to the nearest code of ``target`` within [low, high]."""
    codes = torch.arange(source.qmin, source.qmax + 1, dtype=torch.float64)
    values = CURVES[op]((codes - source.zero_point) * source.scale)
    table = (torch.round(values / target.scale) + target.zero_point).clamp(low, high)
    return Lookup(table.to(code_dtype(target.qmin, target.qmax)), source.qmin)


def fine_grid(target: Grid) -> Grid:
    """The 16-bit grid for what a fused curve reads, which no calibrated edge describes.

    It reaches as far as the curve matters: to where it saturates, or its output leaves ``target``.
    """
    top = (target.qmax - target.zero_point) * target.scale
    return Grid(max(_SATURATED, top + 1.0) / 32767, 0, -32767, 32767)
