"""Storage of every tensor as float32, float16 or bfloat16; arithmetic stays float32.

Source: IEEE 754 for 32 and 16 bits; bfloat16: Kalamkar et al., arXiv:1905.12322.
Idea: the cheapest compression there is, and with float32 the baseline all others are compared with.
Assumptions: float16 overflows past 65,504 (an error here); bfloat16 keeps float32's range with 8 significant bits.
Cost: no data, one pass over the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from qbench.errors import MethodError
from qbench.methods.base import Context, Needs, check_finite, require_one_of
from qbench.program.encodings import Float
from qbench.program.graph import Program

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class FloatStorage:
    """Store all tensors in one float dtype.

    Args:
        dtype: float32, float16 or bfloat16.
    """

    dtype: str = "float32"
    needs: ClassVar[Needs] = Needs()

    def __post_init__(self) -> None:
        require_one_of("dtype", self.dtype, DTYPES)

    def compress(self, baseline: Program, context: Context) -> Program:
        """The same program with every tensor rounded to the dtype (ties to even).

        Raises:
            MethodError: A value is not finite, or overflows float16.
        """
        check_finite(baseline)
        dtype = DTYPES[self.dtype]
        stored = {name: Float(encoding.decode().to(dtype)) for name, encoding in baseline.tensors.items()}
        for name, encoding in stored.items():
            if not bool(torch.isfinite(encoding.values).all()):
                raise MethodError(name, f"holds values too large for {self.dtype}; use bfloat16")
        return baseline.with_tensors(stored)
