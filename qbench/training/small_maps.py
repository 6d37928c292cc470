"""A faster weight gradient for convolutions on small feature maps, for bfloat16 training on CPUs.

oneDNN's backward-weights kernel needs about as long for a 512x512 3x3 convolution on a 2x2 map as on one of 8x8: its
work does not shrink with the map. There the same gradient as one matrix product of the unfolded input is several times
faster (``benchmarks/data_pipeline.py --model vgg16`` measures the whole step).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

MAX_PIXELS = 16  # of the output map; above, oneDNN's kernel wins
MIN_CHANNELS = 128


class _Conv3x3(torch.autograd.Function):
    """3x3, stride 1, padding 1, one group: x [N, C, H, W], w [O, C, 3, 3] -> [N, O, H, W]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        x, w = x.to(torch.bfloat16), w.to(torch.bfloat16)
        ctx.save_for_backward(x, w)
        return conv2d(x, w, padding=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        grad_x = torch.ops.aten.convolution_backward(
            grad, x, w, [0], [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
        )[0]
        return grad_x, _weight_gradient(x, grad)


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the weight [O, C, 3, 3] from input [N, C, H, W] and output gradient [N, O, H, W]."""
    n, c, h, w = x.shape
    o = grad.shape[1]
    x_nhwc = pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    s = x_nhwc.stride()
    patches = x_nhwc.as_strided((n, h, w, 3, 3, c), (s[0], s[1], s[2], s[1], s[2], s[3]))
    columns = patches.reshape(n * h * w, 9 * c)  # [N*H*W, 9*C]
    rows = grad.permute(0, 2, 3, 1).reshape(n * h * w, o)  # [N*H*W, O]
    return (rows.t() @ columns).view(o, 3, 3, c).permute(0, 3, 1, 2).float()


def small_map_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution of ``fits_small_maps``: x [N, C, H, W], weight [O, C, 3, 3] -> bfloat16 [N, O, H, W]."""
    out: Tensor = _Conv3x3.apply(x, weight)  # type: ignore[no-untyped-call]
    return out if bias is None else out + bias.to(out.dtype)[:, None, None]


def fits_small_maps(x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    """Whether the matrix product is the faster weight gradient: a wide 3x3 convolution of small maps, on bfloat16."""
    return (
        x.shape[2] * x.shape[3] <= MAX_PIXELS
        and _eligible(weight.shape, stride, padding, dilation, groups)
        and x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
    )


def _eligible(weight: Any, stride: Any, padding: Any, dilation: Any, groups: int) -> bool:
    settings = (tuple(weight[2:]), tuple(stride), tuple(padding), tuple(dilation), groups)
    return settings == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and min(weight[0], weight[1]) >= MIN_CHANNELS


class _Forward:
    """Stands in for the ``forward`` of one convolution while the context is open."""

    def __init__(self, conv: nn.Conv2d) -> None:
        self.conv = conv

    def __call__(self, x: Tensor) -> Tensor:
        conv = self.conv
        if conv.training and fits_small_maps(x, conv.weight, conv.stride, conv.padding, conv.dilation, conv.groups):
            return small_map_conv2d(x, conv.weight, conv.bias)
        return nn.Conv2d.forward(conv, x)


def _patchable(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and _eligible(module.weight.shape, module.stride, module.padding, module.dilation, module.groups)
    )


@contextmanager
def fast_small_maps(network: nn.Module, enabled: bool) -> Iterator[None]:
    """Within the context, eligible convolutions of ``network`` use the matrix-product weight gradient."""
    changed = [module for module in network.modules() if enabled and _patchable(module)]
    for conv in changed:
        conv.forward = _Forward(conv)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for conv in changed:
            del conv.forward
