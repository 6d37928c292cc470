"""Learned rounding: each weight goes up or down by a variable that training drives to 0 or 1.

Source: Nagel et al., "Up or Down? Adaptive Rounding for Post-Training Quantization", arXiv:2004.10568.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from qbench.quant.ste import BLOCK

STRETCH = (-0.1, 1.1)  # of the sigmoid, so that 0 and 1 are reached (sec. 3.2)
BETA = (20.0, 2.0)  # of the regularizer: loose first, then tight
WARMUP = 0.2  # share of the iterations before rounding is pushed to a side


def initial_logits(steps: Tensor) -> Tensor:
    """Variables V, float32, for which ``soft_rounding(V)`` is the fraction of ``steps`` = weight / scale."""
    low, high = STRETCH
    fraction = (steps - torch.floor(steps)).clamp(1e-4, 1 - 1e-4)
    return -torch.log((high - low) / (fraction - low) - 1)


def soft_rounding(logits: Tensor) -> Tensor:
    """h(V) in [0, 1]: how far each weight goes up from its floor. Eq. 23."""
    low, high = STRETCH
    return (torch.sigmoid(logits) * (high - low) + low).clamp(0.0, 1.0)


def rounding_penalty(logits: Tensor, beta: float) -> Tensor:
    """Sum of 1 - |2 h(V) - 1|^beta, the distance from a decision. Eq. 24."""
    return (1 - (2 * soft_rounding(logits) - 1).abs().pow(beta)).sum()


def annealed_beta(progress: float) -> float | None:
    """The exponent of the penalty when a share ``progress``, 0..1, of the iterations is done; None during warm-up."""
    if progress < WARMUP:
        return None
    position = (progress - WARMUP) / (1 - WARMUP)
    return BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + math.cos(math.pi * position))


def softly_rounded(logits: Tensor, offset: Tensor, gain: Tensor, pull: float, beta: float) -> Tensor:
    """Weights offset + gain h(V), whose gradient pulls V to a decision as well.

    The gradient is that of ``loss(weights) + pull * rounding_penalty(logits, beta)``: the penalty's value is of no use
    to the search, and apart from the weights it would cost as much time as they do. Worked through in blocks that stay
    in a processor's cache, as in :mod:`qbench.quant.ste`.

    Args:
        logits: V, float32, contiguous.
        offset: The weight rounded down, float32, of the same shape; clamped to the grid.
        gain: The step, or 0 where the grid has no room for rounding up, likewise.
        pull: Weight of the penalty; 0 for none.
        beta: Exponent of the penalty, >= 1.
    """
    made: Tensor = _SoftlyRounded.apply(logits, offset, gain, pull, beta)  # type: ignore[no-untyped-call]
    return made


class _SoftlyRounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, offset: Tensor, gain: Tensor, pull: float, beta: float) -> Tensor:
        ctx.save_for_backward(logits, gain)
        ctx.penalty = (pull, beta)
        made = torch.empty_like(logits)
        for values, low, step, out in _blocks(logits, offset, gain, made):
            torch.addcmul(low, step, soft_rounding(values), out=out)
        return made

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        logits, gain = ctx.saved_tensors
        (pull, beta), (low, high) = ctx.penalty, STRETCH
        made = torch.empty_like(logits)
        for values, step, wanted, out in _blocks(logits, gain, grad.contiguous(), made):
            sigmoid = torch.sigmoid(values)
            rounding = sigmoid * (high - low) + low  # beyond 0 and 1, h is flat
            pushed = wanted * step
            if pull:
                side = 2 * rounding - 1
                pushed.sub_(torch.copysign(side.abs().pow_(beta - 1), side), alpha=2 * pull * beta)
            slope = (1 - sigmoid).mul_(sigmoid).mul_(high - low)
            torch.ops.aten.hardtanh_backward(pushed.mul_(slope), rounding, 0.0, 1.0, grad_input=out)
        return made, None, None, None, None


def _blocks(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    size = BLOCK if tensors[0].device.type == "cpu" else max(1, tensors[0].numel())
    return zip(*(torch.split(tensor.view(-1), size) for tensor in tensors))
