"""Integer arithmetic between two grids: a real factor as an int32 multiplier and a shift, and biases as int32 codes.

A layer with input scale S_in and weight scale S_w sums integers whose unit is S_in * S_w. Its output has another unit,
S_out, so every sum is multiplied by S_in * S_w / S_out. Done in integers, that factor is

    multiplier / 2^(31 + right_shift)        multiplier an int32 in [2^30, 2^31)

Source: Jacob et al., arXiv:1712.05877, sec. 2.2. Rounding: half up (ties towards plus infinity), once, on the exact
64-bit product, ``(acc * multiplier + 2^(s - 1)) >> s`` with s = 31 + right_shift. That is what CMSIS-NN, XNNPACK and
TFLite built with single rounding do: one addition and one arithmetic shift on every processor. Deviation from the
original gemmlowp: it rounds twice, first the high half of the product and then the shift, so ties of the first step can
move the result by one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
_ALL_SHIFTED_OUT = 63  # |acc * multiplier| < 2^62, so from here on every result is 0
_LARGEST_BIAS = 1 << 30  # leaves as much again for the products it is added to


def quantize_multiplier(real: float) -> tuple[int, int]:
    """The multiplier and right shift that stand for a real factor, to a relative error of at most 2^-31.

    Args:
        real: In (0, 2^31), finite.

    Returns:
        multiplier in [2^30, 2^31) and right_shift >= -31, negative for factors of 1 and more;
        real ~= multiplier / 2^(31 + right_shift). A power of two has the multiplier 2^30: it is a shift alone.

    Raises:
        ValueError: ``real`` is not in (0, 2^31), or rounds to 2^31.

    Example:
        >>> quantize_multiplier(0.75)
        (1610612736, 0)
    """
    if not 0.0 < real < math.inf:
        raise ValueError(f"the factor between two grids is {real}; it must be a finite number above 0")
    fraction, exponent = math.frexp(real)  # real = fraction * 2^exponent, fraction in [0.5, 1)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)  # exact: 53 bits hold 31 and the fraction's other 22
    if multiplier == 1 << 31:  # e.g. 1 - 2^-33: rounded up to the next power of two
        multiplier, exponent = 1 << 30, exponent + 1
    if exponent > 31:
        raise ValueError(f"the factor between two grids is {real:.4g}, too large for 32-bit integers")
    return multiplier, -exponent


def quantize_multipliers(real: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`quantize_multiplier` of each element: two int32 tensors of the shape of ``real`` (float64)."""
    pairs = [quantize_multiplier(value) for value in real.reshape(-1).tolist()]
    found = torch.tensor(pairs, dtype=torch.int32).reshape(*real.shape, 2)
    return found[..., 0].clone(), found[..., 1].clone()


def requantize(
    acc: Tensor,
    multiplier: Tensor,
    right_shift: Tensor,
    *,
    zero_point: int = 0,
    qmin: int = INT32_MIN,
    qmax: int = INT32_MAX,
) -> Tensor:
    """clamp(round(acc * multiplier / 2^(31 + right_shift)) + zero_point, qmin, qmax), without floats.

    Args:
        acc: Sums, int32, any shape.
        multiplier: int32 in [2^30, 2^31), broadcastable against ``acc``.
        right_shift: int32 >= -31, likewise.
        zero_point: Code of real zero on the output grid.
        qmin: Lowest code of the output, where smaller ones saturate.
        qmax: Highest code.

    Returns:
        int32, of the shape of ``acc``.

    Raises:
        ValueError: ``acc`` is not int32.
    """
    if acc.dtype != torch.int32:
        raise ValueError(f"sums must be int32, not {acc.dtype}")
    shift = (right_shift.to(torch.int64) + 31).clamp_(max=_ALL_SHIFTED_OUT)
    half = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), 0)
    product = acc.to(torch.int64)
    product = product.mul_(multiplier.to(torch.int64)).add_(half).bitwise_right_shift_(shift)
    if zero_point:
        product.add_(zero_point)
    return product.clamp_(qmin, qmax).to(torch.int32)


def bias_scale(input_scale: float, weight_scale: Tensor) -> Tensor:
    """The unit of a layer's sums, S_in * S_w, float32, of the shape of ``weight_scale`` (float32).

    Where the product is no normal float32 it is the smallest one.
    """
    return (weight_scale.double() * input_scale).float().clamp(min=torch.finfo(torch.float32).tiny)


def encode_bias(bias: Tensor, input_scale: float, codes: Tensor, weight_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A bias as int32 codes of unit S_in * S_w, rounded to nearest.

    A channel whose weights are so small beside its bias that the code would exceed 2^30 (a channel that training has
    switched off) gets a weight scale larger by a power of two, and weight codes smaller by it. What its weights lose by
    that is at most half a unit each, where 2^30 units are the bias.

    Args:
        bias: Real values [C], finite.
        input_scale: S_in.
        codes: Symmetric weight codes [C, ...], integers (zero_point 0).
        weight_scale: S_w, float32 [C], or [] for one scale.

    Returns:
        Bias codes int32 [C]; weight codes and weight scale, of the shapes and dtypes they came in.
    """
    wanted = bias.double().abs() / (weight_scale.double() * input_scale * _LARGEST_BIAS)
    if weight_scale.dim() == 0:
        wanted = wanted.amax()
    steps = torch.log2(wanted.clamp(min=1.0)).ceil()  # [C] or []
    factor = torch.exp2(steps)
    per_channel = factor.reshape([-1] + [1] * (codes.dim() - 1)) if factor.dim() else factor
    changes = bool((factor != 1).any())  # seldom; and a large layer's codes as doubles take memory and time
    smaller = torch.round(codes.double() / per_channel).to(codes.dtype) if changes else codes
    scale = (weight_scale.double() * factor).float()
    bias_codes = torch.round(bias.double() / (scale.double() * input_scale))
    return bias_codes.clamp(-_LARGEST_BIAS, _LARGEST_BIAS).to(torch.int32), smaller, scale
