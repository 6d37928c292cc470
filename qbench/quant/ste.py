"""Fake quantization one can train through: straight-through and learned step size. Pure functions of tensors.

Tensors are worked through in blocks that stay in a processor's cache: a dozen elementwise passes over a whole feature
map would each wait for memory, and cost a training step as much as its convolutions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

BLOCK = 1 << 16  # values; the float32 temporaries of that many fit the second-level caches of two cores
_MARGIN = 2.0**-12  # of a step


class _StraightThrough(torch.autograd.Function):
    """Gradients pass where the value was inside the grid, to half a step beyond its ends."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
        x = _dense(x)
        ctx.save_for_backward(x, scale, zero_point)
        ctx.limits = (qmin, qmax)
        return _fake_quantized(x, scale, zero_point, qmin, qmax)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        qmin, qmax = ctx.limits
        passed = torch.empty_like(x)
        for xs, grads, out, step, low, high in _blocks(scale, zero_point, qmin, qmax, x, _like(grad, x), passed):
            steps = torch.div(xs.float(), step)
            out.copy_(_where_inside(grads.float(), steps, low - 0.5, high + 0.5))
        return passed, None, None, None, None


class _LearnedStep(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, factor: float) -> Tensor:
        x = _dense(x)
        ctx.save_for_backward(x, scale, zero_point)
        ctx.limits = (qmin, qmax, factor)
        return _fake_quantized(x, scale, zero_point, qmin, qmax)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        x, scale, zero_point = ctx.saved_tensors
        qmin, qmax, factor = ctx.limits
        passed, by_scale = torch.empty_like(x), []
        for xs, grads, out, step, low, high in _blocks(scale, zero_point, qmin, qmax, x, _like(grad, x), passed):
            steps, wanted = torch.div(xs.float(), step), grads.float()
            inside = _where_inside(wanted, steps, low, high)
            out.copy_(inside)
            # round(x/s) - x/s inside the grid, the grid's end outside
            by_scale.append(steps.round().clamp_(low, high).mul_(wanted).sub_(steps.mul_(inside)).sum(1))
        total = torch.stack(by_scale).sum(0) if scale.numel() == 1 else torch.cat(by_scale)
        return passed, total.reshape(scale.shape) * factor, None, None, None, None


def _fake_quantized(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """``fake_quantize`` in blocks, computed in float32 whatever the dtype of ``x``, which is dense."""
    made = torch.empty_like(x)
    for xs, out, step, low, high in _blocks(scale, zero_point, qmin, qmax, x, made):
        codes = torch.div(xs.float(), step).round_().clamp_(low, high)
        torch.mul(codes, step, out=out)
    return made


def straight_through(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int) -> Tensor:
    """``fake_quantize`` whose gradient is 1 inside the grid and 0 where values are clipped.

    Args:
        x: Values, any float dtype.
        scale: Step > 0, float32, shape [] or [C, 1, ...] against ``x`` [C, ...]; gets no gradient.
        zero_point: Code of zero, int32, likewise.
        qmin: Lowest code.
        qmax: Highest code.

    Source: Bengio et al., arXiv:1308.3432; as in Jacob et al., arXiv:1712.05877, sec. 3.
    """
    made: Tensor = _StraightThrough.apply(x, scale, zero_point, qmin, qmax)  # type: ignore[no-untyped-call]
    return made


def learned_step(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, values: int) -> Tensor:
    """``fake_quantize`` whose step is learned.

    d/ds: round(x/s) - x/s inside the grid, the grid's end outside; scaled by 1 / sqrt(values * largest level).

    Args:
        x: Values, any float dtype.
        scale: Step > 0, float32, shape [] or [C, 1, ...] against ``x`` [C, ...].
        zero_point: Code of zero, int32, of the shape of ``scale``.
        qmin: Lowest code.
        qmax: Highest code.
        values: How many values share a step: weights of the tensor or channel, features of one image.

    Source: Esser et al., "Learned Step Size Quantization", arXiv:1902.08153, eq. 3 and sec. 2.2.
    """
    factor = 1.0 / (values * max(qmax - int(zero_point.min()), 1)) ** 0.5
    made: Tensor = _LearnedStep.apply(x, scale, zero_point, qmin, qmax, factor)  # type: ignore[no-untyped-call]
    return made


def _blocks(scale: Tensor, zero_point: Tensor, qmin: int, qmax: int, *tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """Pieces of dense tensors of one layout, each followed by its scale and the ends of its grid in steps from zero."""
    rows = scale.numel()
    views = [_rows(tensor, rows) for tensor in tensors]
    zeros: list[int] = zero_point.reshape(-1).tolist()
    size = BLOCK if tensors[0].device.type == "cpu" else max(1, tensors[0].numel())
    if rows == 1:
        for pieces in zip(*(torch.split(view, size, dim=1) for view in views)):
            yield *pieces, scale.reshape(()), qmin - zeros[0], qmax - zeros[0]
        return
    count = max(1, size // max(1, views[0].shape[1])) if len(set(zeros)) == 1 else 1
    for index, pieces in enumerate(zip(*(torch.split(view, count) for view in (*views, scale.reshape(-1, 1))))):
        yield *pieces, qmin - zeros[index * count], qmax - zeros[index * count]


def _where_inside(grad: Tensor, steps: Tensor, low: float, high: float) -> Tensor:
    """The gradient where steps lie in [low, high], else 0: in one pass, where a mask would take three slow ones."""
    made: Tensor = torch.ops.aten.hardtanh_backward(grad, steps, low - _MARGIN, high + _MARGIN)  # open there
    return made


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or _is_channels_last(x) else x.contiguous()


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def _like(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient in the layout of the dense tensor ``x``."""
    return grad.contiguous(memory_format=torch.contiguous_format if x.is_contiguous() else torch.channels_last)


def _rows(x: Tensor, rows: int) -> Tensor:
    """A view [rows, values] of a dense tensor in the order it lies in memory; rows are of axis 0."""
    return (x if x.is_contiguous() else x.permute(0, 2, 3, 1)).view(rows, -1)
