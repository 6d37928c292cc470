"""Uniform quantization r = scale * (q - zero_point): choosing parameters, quantizing, dequantizing. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDINGS = ("nearest", "truncate")


@dataclass(frozen=True, eq=False)
class QParams:
    """``scale`` float32 > 0 and ``zero_point`` int32, of one shape, always together."""

    scale: Tensor
    zero_point: Tensor


def integer_grid(bits: int, *, narrow_range: bool = False) -> tuple[int, int]:
    """(qmin, qmax) of signed codes: [-2^(bits-1), 2^(bits-1) - 1]; narrow drops the lowest code where three remain.

    Raises:
        ValueError: bits outside 1..16.
    """
    if not 1 <= bits <= 16:
        raise ValueError(f"bits={bits} is outside 1..16")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return (low + 1 if narrow_range and bits > 1 else low), high


def choose_qparams(range_min: Tensor, range_max: Tensor, qmin: int, qmax: int, *, symmetric: bool) -> QParams:
    """Parameters that cover [range_min, range_max] with real zero exactly on the grid.

    affine:    S = (max - min) / (qmax - qmin);  Z = clamp(round(qmin - min / S), qmin, qmax)
    symmetric: S = max(max / qmax, -min / -qmin);  Z = 0

    The range is first widened to contain 0. A range with nothing to cover (all zero, or all of a sign the symmetric
    grid does not have) gets S = 1. A range so narrow that S is not a normal float32 (below 2^-126) gets the smallest
    normal one.

    Args:
        range_min: Lower end of the real clipping range, float32, any shape, between -1.7e38 and 1.7e38: twice that
            must still be a float32, as the end of a symmetric grid can be.
        range_max: Upper end, same shape, likewise.
        qmin: Lowest code, <= 0 for symmetric.
        qmax: Highest code, >= 0 for symmetric.
        symmetric: Whether zero_point must be 0.

    Raises:
        ValueError: A bound is NaN or infinite, or too large.

    Source: Jacob et al., arXiv:1712.05877, sec. 2.1. Deviation: the range is widened to contain 0 first, without which
        the clamped Z maps a range of one sign to a single value; wherever the plain formula works the codes are equal.
    """
    if not (torch.isfinite(range_min).all() and torch.isfinite(range_max).all()):
        raise ValueError("the range to quantize is not finite")
    low, high = range_min.double().clamp(max=0.0), range_max.double().clamp(min=0.0)
    if (torch.maximum(high, -low) > torch.finfo(torch.float32).max / 2).any():
        raise ValueError(f"the range to quantize, {float(low.min()):.3g} to {float(high.max()):.3g}, is too wide")
    if symmetric:
        above = high / qmax if qmax > 0 else torch.zeros_like(high)
        below = low / qmin if qmin < 0 else torch.zeros_like(low)
        scale = torch.maximum(above, below)
    else:
        scale = (high - low) / (qmax - qmin)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    scale = scale.float().clamp(min=torch.finfo(torch.float32).tiny)
    if symmetric:
        return QParams(scale, torch.zeros_like(scale, dtype=torch.int32))
    zero_point = torch.round(qmin - low / scale.double()).clamp(qmin, qmax)
    return QParams(scale, zero_point.to(torch.int32))


def code_dtype(qmin: int, qmax: int) -> torch.dtype:
    """The smallest integer dtype that holds the grid."""
    for dtype in (torch.int8, torch.int16):
        info = torch.iinfo(dtype)
        if info.min <= qmin and qmax <= info.max:
            return dtype
    return torch.int32


def quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, *, rounding: str = "nearest"
) -> Tensor:
    """Codes q = clamp(round(x / scale) + zero_point, qmin, qmax), in the smallest integer dtype.

    Args:
        x: Finite values, float32.
        scale: Real step > 0, float32, broadcastable against ``x``.
        zero_point: Code of real zero, likewise.
        qmin: Lowest code.
        qmax: Highest code.
        rounding: "nearest" rounds ties to even, "truncate" drops the fraction (towards zero).

    Raises:
        ValueError: An unknown rounding.
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding={rounding!r}: allowed are {', '.join(ROUNDINGS)}")
    steps = x / scale
    whole = torch.round(steps) if rounding == "nearest" else torch.trunc(steps)
    return (whole + zero_point).clamp(qmin, qmax).to(code_dtype(qmin, qmax))


def dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Real values scale * (q - zero_point), float32."""
    return scale * (codes.to(torch.int32) - zero_point).to(torch.float32)


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """``dequantize(quantize(x))`` in float32, without the integer detour."""
    codes = (torch.round(x / scale) + zero_point).clamp(qmin, qmax)
    return scale * (codes - zero_point)
