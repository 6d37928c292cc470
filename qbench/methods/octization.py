"""Octization: q = trunc(w * (2^n - 1)), written in octal.

Source: the study that names it; ``qbench study d`` repeats it.
Idea: that of ``standard`` with the fraction dropped instead of rounded. Octal is a way to write the codes and changes
nothing that is stored: a code is the same number of bits in any notation.
Assumptions: those of ``standard``. Truncation moves every weight towards zero, by half a step on average, and its error
is up to a step where that of rounding is up to half of one.
Cost: that of ``standard``.
Deviations: codes are packed as binary integers of n magnitude bits and a sign; ``qbench inspect`` prints them in octal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qbench.methods.standard import Standard


@dataclass(frozen=True)
class Octization(Standard):
    """Codes of weights in [-1, 1] without a scale, truncated towards zero. Parameters: those of ``Standard``."""

    rounding: ClassVar[str] = "truncate"
    notation: ClassVar[str | None] = "octal"
