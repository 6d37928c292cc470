"""Trainable uniform quantizers: of weights and of edges, with straight-through or learned steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qbench.program.encodings import Affine, Encoding
from qbench.program.graph import EdgeSpec
from qbench.quant.affine import choose_qparams, quantize
from qbench.quant.ste import learned_step, straight_through
from qbench.training.trainable import EdgeQuantizer, WeightQuantizer

TINY = torch.finfo(torch.float32).tiny
EDGE_MOMENTUM = 0.01  # of moving activation ranges


class SteppedWeight(WeightQuantizer):
    """Weights on a uniform grid, per tensor or per channel (axis 0).

    Where a batch norm is folded into the weight and channels have steps of their own, those are steps of the weight
    before folding: what the norm does to a channel then scales its step alike and leaves its codes alone. Few bits need
    that, because the statistics of a network just quantized are far from the float ones and move at once.

    Args:
        initial: An encoding of the (folded) weight as it is now; its grid stays, its scale is where training starts.
        step: frozen (the initial scale stays), moving (min-max of the weight at each step) or learned.
        factor: float32 [C], of the batch norm that is folded into the weight; None where there is none.
    """

    def __init__(self, initial: Affine, step: str, factor: Tensor | None = None) -> None:
        super().__init__()
        self.initial, self.step = initial, step
        scale = initial.broadcast(initial.scale).clone()
        self._shape = scale.shape
        # a tensor's only step cannot follow the norms of its channels
        self._before_folding = factor is not None and scale.numel() == factor.numel() and step != "moving"
        if self._before_folding:
            assert factor is not None
            scale = scale / torch.where(factor == 0, torch.ones_like(factor), factor.abs()).view(self._shape)
        self.register_buffer("zero_point", initial.broadcast(initial.zero_point).clone())
        if step == "learned":
            self.scale = nn.Parameter(scale.flatten())  # one axis: spared from weight decay
        else:
            self.register_buffer("scale", scale.flatten())

    def steps(self, latent: Tensor) -> Tensor:
        """The scale to use for this weight, float32, broadcastable against it."""
        if self.step == "learned":
            return self.scale.abs().clamp(min=TINY).view(self._shape)
        if self.step == "moving" and self.training:
            rows = latent.detach().reshape(self.scale.numel(), -1)
            initial = self.initial
            qparams = choose_qparams(rows.amin(1), rows.amax(1), initial.qmin, initial.qmax, symmetric=True)
            self.scale.data.copy_(qparams.scale)
        return self.scale.view(self._shape)

    def forward(self, latent: Tensor) -> Tensor:
        return self._quantized(latent, self.steps(latent))

    def unfolded(self, latent: Tensor, factor: Tensor) -> Tensor:
        if self._before_folding:
            return self._quantized(latent, torch.copysign(self.steps(latent), factor))
        # The factor goes into the scale: two passes over the weight less, and two on the way back. A negative factor
        # makes a negative scale, which comes to the same codes.
        if (self.step == "moving" and self.training) or bool((factor == 0).any()):
            return super().unfolded(latent, factor)
        return self._quantized(latent, self.steps(latent) / factor)

    def _quantized(self, latent: Tensor, scale: Tensor) -> Tensor:
        zero_point: Tensor = self.zero_point  # type: ignore[assignment]
        qmin, qmax = self.initial.qmin, self.initial.qmax
        if zero_point.dim() != scale.dim():
            zero_point = zero_point.expand(scale.shape)
        if self.step == "learned":
            return learned_step(latent, scale, zero_point, qmin, qmax, latent.numel() // self.scale.numel())
        return straight_through(latent, scale, zero_point, qmin, qmax)

    def encode(self, latent: Tensor) -> Encoding:
        scale = self.steps(latent).detach()
        return self._encoded(latent, scale, stored=scale)

    def encode_folded(self, latent: Tensor, factor: Tensor) -> Encoding:
        if not self._before_folding:
            return super().encode_folded(latent, factor)
        scale = self.steps(latent).detach()
        return self._encoded(latent, torch.copysign(scale, factor), stored=(scale * factor.abs()).clamp(min=TINY))

    def _encoded(self, latent: Tensor, scale: Tensor, stored: Tensor) -> Affine:
        """Codes of the weight at one scale, to be stored with another."""
        before = self.initial
        zero_point: Tensor = self.zero_point  # type: ignore[assignment]
        codes = quantize(latent, scale, zero_point, before.qmin, before.qmax)
        shape = before.scale.shape
        grid = (stored.reshape(shape).cpu().clone(), zero_point.reshape(shape).cpu().clone())
        return Affine(codes.cpu(), *grid, before.bits, before.qmin, before.qmax, before.axis)


class SteppedEdge(EdgeQuantizer):
    """An activation on a uniform grid, per tensor.

    Args:
        initial: The static quantizer training starts from.
        step: frozen, moving (exponential average of each batch's min-max) or learned (the zero point stays).
    """

    def __init__(self, initial: EdgeSpec, step: str) -> None:
        super().__init__()
        if initial.scale is None or initial.zero_point is None:
            raise ValueError("a dynamic edge has no step to train")
        self.initial, self.step = initial, step
        scale = torch.tensor(initial.scale, dtype=torch.float32)
        self.register_buffer("zero_point", torch.tensor(initial.zero_point, dtype=torch.int32))
        if step == "learned":
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)
        low, high = (initial.scale * (q - initial.zero_point) for q in (initial.qmin, initial.qmax))
        self.register_buffer("range", torch.tensor([low, high]))

    def forward(self, value: Tensor) -> Tensor:
        qmin, qmax = self.initial.qmin, self.initial.qmax
        zero_point: Tensor = self.zero_point  # type: ignore[assignment]
        if self.step == "learned":
            return learned_step(value, self.scale.abs().clamp(min=TINY), zero_point, qmin, qmax, value[0].numel())
        if self.step == "moving" and self.training:
            self._follow(value.detach())
        return straight_through(value, self.scale, zero_point, qmin, qmax)

    @torch.no_grad()
    def _follow(self, value: Tensor) -> None:
        ends: Tensor = self.range  # type: ignore[assignment]
        ends.lerp_(torch.stack(torch.aminmax(value)).float(), EDGE_MOMENTUM)
        qparams = choose_qparams(ends[0], ends[1], self.initial.qmin, self.initial.qmax, symmetric=False)
        self.scale.data.copy_(qparams.scale)
        self.zero_point.copy_(qparams.zero_point)  # type: ignore[operator]

    def spec(self) -> EdgeSpec:
        scale = float(self.scale.detach().abs().clamp(min=TINY))
        zero_point: Tensor = self.zero_point  # type: ignore[assignment]
        return EdgeSpec(self.initial.bits, self.initial.qmin, self.initial.qmax, scale, int(zero_point))
