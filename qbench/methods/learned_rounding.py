"""Quantizers of a segment whose roundings are searched: learned roundings of weights, edges and weights that stay."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import EdgeSpec
from qbench.program.materialize import simulate_edge
from qbench.quant.adaround import initial_logits, softly_rounded
from qbench.training.trainable import EdgeQuantizer, WeightQuantizer

PENALTY = 0.01  # weight of the rounding penalty beside the output error


class LearnedRounding(WeightQuantizer):
    """Weights on a fixed grid whose roundings are learned; hard roundings in evaluation mode.

    Attributes:
        beta: Exponent of the rounding penalty at this iteration; None for none.
    """

    def __init__(self, nearest: Affine, weight: Tensor) -> None:
        super().__init__()
        self.nearest = nearest
        self.beta: float | None = None
        scale, zero_point = nearest.broadcast(nearest.scale), nearest.broadcast(nearest.zero_point)
        floor = torch.floor(weight / scale)
        base = floor.clamp(nearest.qmin - zero_point, nearest.qmax - zero_point)
        room = (base == floor) & (floor < nearest.qmax - zero_point)
        self.base = (base + zero_point).to(nearest.codes.dtype)
        self.room = room
        self.register_buffer("offset", scale * base)
        self.register_buffer("gain", (scale * room).contiguous())
        self.logits = nn.Parameter(initial_logits(weight / scale).contiguous())

    def forward(self, latent: Tensor) -> Tensor:
        offset, gain = self.offset, self.gain
        if self.training:
            pull, beta = (0.0, 2.0) if self.beta is None else (PENALTY, self.beta)
            return softly_rounded(self.logits, offset, gain, pull, beta)  # type: ignore[arg-type]
        values: Tensor = self.encode(latent).decode()
        return values.to(latent.device)

    def encode(self, latent: Tensor) -> Encoding:
        up = self.room & (self.logits >= 0).cpu()
        return replace(self.nearest, codes=(self.base + up).contiguous())


class FixedEdge(EdgeQuantizer):
    """An edge as it was calibrated; gradients pass where a value was not clipped."""

    def __init__(self, spec: EdgeSpec) -> None:
        super().__init__()
        self._spec = spec

    def forward(self, value: Tensor) -> Tensor:
        simulated = simulate_edge(value.detach(), self._spec)
        if not value.requires_grad:
            return simulated
        inside = (simulated - value.detach()).abs() <= _step(value.detach(), self._spec)
        through = torch.where(inside, value, value.detach())
        return through + (simulated - through).detach()

    def spec(self) -> EdgeSpec:
        return self._spec


def _step(value: Tensor, spec: EdgeSpec) -> Tensor | float:
    """The largest error of a value that is not clipped."""
    if spec.scale is not None:
        return spec.scale
    if spec.levels is not None:
        gaps = [high - low for low, high in zip(spec.levels, spec.levels[1:])]
        return max(gaps, default=0.0)
    rows = value.reshape(len(value), -1)
    width = (rows.amax(1).clamp(min=0) - rows.amin(1).clamp(max=0)) / (spec.qmax - spec.qmin)
    return width.view([-1] + [1] * (value.dim() - 1))


class Given(WeightQuantizer):
    """A weight that is encoded already and stays so."""

    def __init__(self, encoding: Encoding) -> None:
        super().__init__()
        self._encoding = encoding
        self.register_buffer("values", encoding.decode())

    def forward(self, latent: Tensor) -> Tensor:
        values: Tensor = self.values  # type: ignore[assignment]
        return values

    def encode(self, latent: Tensor) -> Encoding:
        return self._encoding
