"""Ternary weights: every weight is -a, 0 or a, one a per output channel.

Paper: Li, Zhang & Liu, "Ternary Weight Networks", arXiv:1605.04711.
Idea: weights of |w| up to a threshold become 0, the others the mean magnitude of those; two bits per weight.
Assumptions: as for binary weights, whose error it about halves. Biases and batch norms stay float.
Cost: no data and one sort of the weights; with ``epochs``, that many passes over the training images.
Deviations: the threshold is the exact optimum, found by sorting, instead of 0.7 times the mean magnitude. While
training it follows the weights by one Lloyd step per step, and the gradient passes straight through to the float
weights, whose steps outwards end at four times their channel's a. Indices take two bits of which three values are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from qbench.methods.binary import REACH
from qbench.methods.few_levels import FewLevels, symmetric
from qbench.methods.in_loop import StraightThrough
from qbench.program.encodings import Codebook
from qbench.quant.binarize import ternary_indices, ternary_magnitude, ternary_step
from qbench.training.trainable import WeightQuantizer


@dataclass(frozen=True)
class Ternary(FewLevels):
    """Weights -a, 0 and a. Parameters: those of ``FewLevels``."""

    own_bits: ClassVar[int] = 2

    def magnitude(self, rows: Tensor) -> Tensor:
        return ternary_magnitude(rows)

    def levels(self, rows: Tensor, magnitude: Tensor) -> tuple[Tensor, Tensor]:
        return ternary_indices(rows, magnitude), symmetric(magnitude, zero=True)

    def quantizer(self, weight: Tensor, bits: int) -> WeightQuantizer:
        return super().quantizer(weight, bits) if bits != self.own_bits else _Tracking(self, weight)


class _Tracking(StraightThrough):
    """Ternary levels whose magnitudes follow the float weight by a Lloyd step per training step."""

    magnitude: Tensor

    def __init__(self, method: Ternary, weight: Tensor) -> None:
        super().__init__(self._encoded, self._limit)
        self.method = method
        self.register_buffer("magnitude", method.magnitude(method.rows(weight)))

    def forward(self, latent: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.magnitude = ternary_step(self.method.rows(latent.detach()), self.magnitude)
        return super().forward(latent)

    def _encoded(self, weight: Tensor) -> Codebook:
        return self.method.encode_levels(weight, self.magnitude)

    def _limit(self, weight: Tensor) -> Tensor:
        return REACH * self.method.on_weight(self.magnitude, weight)
