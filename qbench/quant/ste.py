"""Fake quantization one can train through: straight-through and learned step size. Pure functions of tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qbench.quant.affine import fake_quantize


class _StraightThrough(torch.autograd.Function):
    """Gradients pass where the value was inside the grid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
        low, high = scale * (qmin - zero_point - 0.5), scale * (qmax - zero_point + 0.5)
        ctx.save_for_backward((x >= low) & (x <= high))
        return fake_quantize(x, scale, zero_point, qmin, qmax)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (inside,) = ctx.saved_tensors
        return grad * inside, None, None, None, None


def straight_through(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """``fake_quantize`` whose gradient is 1 inside the grid and 0 where values are clipped.

    Args:
        x: Values, any float dtype.
        scale: Step > 0, float32, broadcastable against ``x``; gets no gradient.
        zero_point: Code of zero, int32, likewise.
        qmin: Lowest code.
        qmax: Highest code.

    Source: Bengio et al., arXiv:1308.3432; as in Jacob et al., arXiv:1712.05877, sec. 3.
    """
    made: Tensor = _StraightThrough.apply(x, scale, zero_point, qmin, qmax)  # type: ignore[no-untyped-call]
    return made


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, factor: float) -> Tensor:
        steps = x / scale
        codes = (torch.round(steps) + zero_point).clamp_(qmin, qmax) - zero_point
        ctx.save_for_backward(steps, codes, scale, zero_point)
        ctx.limits = (qmin, qmax, factor)
        return scale * codes

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        steps, codes, scale, zero_point = ctx.saved_tensors
        qmin, qmax, factor = ctx.limits
        inside = (steps >= qmin - zero_point) & (steps <= qmax - zero_point)
        by_step = codes - steps * inside  # round(x/s) - x/s inside, the end of the grid outside
        grad_scale = (grad * by_step).float()
        for axis, size in enumerate(scale.shape):
            if size == 1:
                grad_scale = grad_scale.sum(axis, keepdim=True)
        return grad * inside, (grad_scale.sum() if scale.dim() == 0 else grad_scale) * factor, None, None, None, None


def learned_step(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, values: int) -> Tensor:
    """``fake_quantize`` whose step is learned.

    d/ds: round(x/s) - x/s inside the grid, the grid's end outside; scaled by 1 / sqrt(values * largest level).

    Args:
        x: Values, any float dtype.
        scale: Step > 0, float32; of shape [] or of as many axes as ``x``, each of size 1 or that of ``x``.
        zero_point: Code of zero, int32, of the shape of ``scale``.
        qmin: Lowest code.
        qmax: Highest code.
        values: How many values share a step: weights of the tensor or channel, features of one image.

    Source: Esser et al., "Learned Step Size Quantization", arXiv:1902.08153, eq. 3 and sec. 2.2.
    """
    factor = 1.0 / (values * max(qmax - int(zero_point.min()), 1)) ** 0.5
    made: Tensor = _LearnedStep.apply(x, scale, zero_point, qmin, qmax, factor)  # type: ignore[no-untyped-call]
    return made
