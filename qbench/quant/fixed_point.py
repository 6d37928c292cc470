"""Fixed point: signed integers whose unit is a power of two, and the choice of that power."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.quant.affine import fake_quantize

LEAST_FRACTION, MOST_FRACTION = -126, 126  # the unit and its inverse are then normal float32 numbers
_CHUNK = 1 << 20  # elements: bounds the memory of copies, and keeps them in cache
_EXACT = 1e-15  # noise below this share of the signal counts as this much: 150 dB


@dataclass(frozen=True)
class FixedPoint:
    """Qm.n: a sign bit, m integer bits and n fraction bits; value = code * 2^-n.

    m or n may be negative: Q-3.10 has eight bits that all lie behind three zeros.

    Args:
        bits: 1 + m + n, 1..16.
        fraction_bits: n, -126..126.
    """

    bits: int
    fraction_bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 16 or not LEAST_FRACTION <= self.fraction_bits <= MOST_FRACTION:
            raise ValueError(f"there is no fixed point of {self.bits} bits, {self.fraction_bits} of them fraction bits")

    @property
    def integer_bits(self) -> int:
        return self.bits - 1 - self.fraction_bits

    @property
    def scale(self) -> float:
        return math.ldexp(1.0, -self.fraction_bits)

    @property
    def qmin(self) -> int:
        return -(1 << (self.bits - 1))

    @property
    def qmax(self) -> int:
        return (1 << (self.bits - 1)) - 1

    def __str__(self) -> str:
        return f"Q{self.integer_bits}.{self.fraction_bits}"

    def simulate(self, x: Tensor) -> Tensor:
        """The nearest values of this format, saturated, in float32."""
        scale, zero_point = torch.tensor(self.scale, device=x.device), torch.tensor(0, device=x.device)
        return fake_quantize(x, scale, zero_point, self.qmin, self.qmax)

    def squared_error(self, x: Tensor) -> float:
        """Sum of (x - simulate(x))^2, in float64."""
        parts = torch.split(x.reshape(-1), _CHUNK)
        return sum(float((part - self.simulate(part)).double().square_().sum()) for part in parts)


def with_integer_bits(bits: int, integer_bits: int) -> FixedPoint:
    """Qm.n of that many bits and integer bits."""
    return FixedPoint(bits, bits - 1 - integer_bits)


def holding(largest: float, bits: int) -> FixedPoint:
    """The finest format of that many bits whose highest code reaches ``largest``.

    Args:
        largest: Largest magnitude, finite, >= 0. 0 gives a format without integer bits.
        bits: 1..16. At one bit, whose highest code is 0, the lowest counts.

    Raises:
        ValueError: ``largest`` is not finite, negative, or beyond every format.
    """
    if not 0.0 <= largest < math.inf:
        raise ValueError(f"the largest value is {largest}")
    qmax = max((1 << (bits - 1)) - 1, 1)
    if largest == 0.0:
        return with_integer_bits(bits, 0)
    fraction_bits = math.floor(math.log2(qmax) - math.log2(largest)) + 1  # at most one too many
    while math.ldexp(float(qmax), -fraction_bits) < largest:
        fraction_bits -= 1
    if fraction_bits < LEAST_FRACTION:
        raise ValueError(f"{largest:.3g} is too large for fixed point of {bits} bits")
    return FixedPoint(bits, min(fraction_bits, MOST_FRACTION))


def finer(largest: FixedPoint, steps: int) -> tuple[FixedPoint, ...]:
    """A format and those with up to ``steps`` more fraction bits (and as many fewer integer bits)."""
    most = min(largest.fraction_bits + steps, MOST_FRACTION)
    return tuple(FixedPoint(largest.bits, n) for n in range(largest.fraction_bits, most + 1))


def least_error(x: Tensor, bits: int, steps: int = 4) -> FixedPoint:
    """The format of least squared error among the one that holds all of ``x`` and the next ``steps`` finer ones.

    Raises:
        ValueError: ``x`` is empty, not finite or too large.
    """
    candidates = finer(holding(float(x.abs().amax()), bits), steps)
    return min(candidates, key=lambda one: one.squared_error(x))


def signal_to_noise_db(signal: float, noise: float) -> float:
    """10 log10 of the ratio of two sums of squares, signal > 0; 150 dB where there is next to no noise."""
    return 10.0 * math.log10(signal / max(noise, signal * _EXACT))
