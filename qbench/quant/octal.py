"""Codes without a scale: weights taken as lying in [-1, 1], n bits of magnitude beside a sign; their octal spelling."""

from __future__ import annotations

import torch
from torch import Tensor

from qbench.quant.affine import ROUNDINGS

LARGEST_BITS = 15
"""Most magnitude bits: with the sign they fill sixteen."""


def unit_codes(x: Tensor, bits: int, *, rounding: str = "nearest") -> Tensor:
    """Codes q = round(x * (2^bits - 1)) of values meant to lie in [-1, 1], where |q| <= 2^bits - 1.

    The product is formed in float64: dividing by a float32 scale would give 254.99998 for 1.0 at 8 bits. A value
    beyond 1 gets the code the formula gives, which needs more bits.

    Args:
        x: Finite values, float32, any shape.
        bits: Magnitude bits n, 1..15; the sign comes on top.
        rounding: "nearest" rounds ties to even, "truncate" drops the fraction (towards zero).

    Returns:
        Codes, int32, of the shape of ``x``.

    Raises:
        ValueError: ``bits`` or ``rounding`` is not allowed, or a code needs more than 15 magnitude bits.

    Example:
        >>> unit_codes(torch.tensor([0.75, -0.37225065, 1.0]), 8).tolist()
        [191, -95, 255]
    """
    if not 1 <= bits <= LARGEST_BITS:
        raise ValueError(f"bits={bits} is outside 1..{LARGEST_BITS}")
    if rounding not in ROUNDINGS:
        raise ValueError(f"rounding={rounding!r}: allowed are {', '.join(ROUNDINGS)}")
    steps = x.double() * float((1 << bits) - 1)
    whole = torch.round(steps) if rounding == "nearest" else torch.trunc(steps)
    if whole.numel() and float(whole.abs().max()) > (1 << LARGEST_BITS) - 1:
        worst = float(x.flatten()[whole.abs().argmax()])
        raise ValueError(f"a weight of {worst:.4g} at {bits} bits needs more than {LARGEST_BITS} magnitude bits")
    return whole.to(torch.int32)


def magnitude_bits(codes: Tensor) -> int:
    """Bits of the largest |code|: 8 for 255, 9 for 256, 0 where all are 0."""
    return int(codes.abs().max()).bit_length() if codes.numel() else 0


def octal(code: int) -> str:
    """A code as octal text: 191 is 0o277, -95 is -0o137."""
    return oct(code)
