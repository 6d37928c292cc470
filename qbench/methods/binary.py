"""Binary weights: every weight is -a or a, one a per output channel.

Paper: Rastegari et al., "XNOR-Net", arXiv:1603.05279, sec. 3.1 (Binary-Weight-Networks); activations stay as they are.
Idea: sign(w) and the mean of |w| minimise the squared error; one bit per weight and one magnitude per channel.
Assumptions: post-training (epochs=0) few networks survive it; with ``epochs`` the signs are trained, straight through
to float weights that are thrown away in the end. Biases and batch norms stay float.
Cost: no data and one pass over the weights; with ``epochs``, that many passes over the training images.
Deviations: the gradient of sign is taken as 1 and steps outwards end where |w| exceeds four times its channel's a (the
paper: 1 where |w| <= 1, times a, plus 1/n), so that learning rates fit weights of any size; first and last layer are
binary too unless ``first_last_bits`` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from torch import Tensor

from qbench.methods.few_levels import FewLevels, symmetric
from qbench.methods.in_loop import StraightThrough
from qbench.quant.binarize import binary_indices, binary_magnitude
from qbench.training.trainable import WeightQuantizer

REACH = 4.0  # of a normal distribution, 0.14 % lies beyond four times its mean magnitude


@dataclass(frozen=True)
class Binary(FewLevels):
    """Weights -a and a. Parameters: those of ``FewLevels``."""

    own_bits: ClassVar[int] = 1

    def magnitude(self, rows: Tensor) -> Tensor:
        return binary_magnitude(rows)

    def levels(self, rows: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        return binary_indices(rows), symmetric(magnitude, zero=False)

    def quantizer(self, weight: Tensor, bits: int) -> WeightQuantizer:
        if bits != self.own_bits:
            return super().quantizer(weight, bits)
        return StraightThrough(partial(self.encode, bits=bits), self._limit)

    def _limit(self, weight: Tensor) -> Tensor:
        return REACH * self.on_weight(self.magnitude(self.rows(weight)), weight)
