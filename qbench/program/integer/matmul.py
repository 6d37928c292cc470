"""Exact products of int8 matrices, and patches of images as matrices."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

Pair = tuple[int, int]
_PROBES = ((1, 3, 1), (33, 40, 24), (70, 577, 64))  # rows, inner length, columns: below and above vector widths


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """The product of int8 [M, K] and int8 [K, N], summed in int32: exact while the sums fit, modulo 2^32 beyond."""
    if _kernel_is_exact():
        return torch._int_mm(a, b)
    return a.to(torch.int32) @ b.to(torch.int32)


@cache
def _kernel_is_exact() -> bool:
    """Whether torch's int8 kernel sums without saturating on this processor.

    x86 without VNNI adds pairs of products in 16 bits, where 2 * 128 * 128 saturates: with codes at the ends of their
    grid such a kernel is wrong by far, so that is what is tried.
    """
    for rows, inner, columns in _PROBES:
        for left, right in ((-128, -128), (-128, 127), (127, 127)):
            a = torch.full((rows, inner), left, dtype=torch.int8)
            b = torch.full((inner, columns), right, dtype=torch.int8)
            try:
                product = torch._int_mm(a, b)
            except RuntimeError:  # a build without the kernel
                return False
            if not bool((product == inner * left * right).all()):
                return False
    return True


def int8_parts(weight: Tensor) -> tuple[Tensor, ...]:
    """int8 tensors whose sum is ``weight`` (integers): one for symmetric codes, up to three for 9-bit differences."""
    parts: list[Tensor] = []
    rest = weight.to(torch.int32)
    while not parts or bool(rest.any()):
        parts.append(rest.clamp(-128, 127).to(torch.int8))
        rest = rest - parts[-1]
    return tuple(parts)


def pad_images(x: Tensor, before: Pair, after: Pair, value: int) -> Tensor:
    """Codes [N, H, W, C] with ``value`` around each image: rows and columns before it, and after it."""
    if before == after == (0, 0):
        return x
    # Not torch.nn.functional.pad, which takes the value as a float.
    n, height, width, channels = x.shape
    padded = x.new_full((n, height + before[0] + after[0], width + before[1] + after[1], channels), value)
    padded[:, before[0] : before[0] + height, before[1] : before[1] + width] = x
    return padded


def output_size(size: int, kernel: int, stride: int, dilation: int) -> int:
    """Positions a window takes along an axis that is padded already."""
    return (size - dilation * (kernel - 1) - 1) // stride + 1


def patches(x: Tensor, kernel: Pair, stride: Pair, dilation: Pair) -> tuple[Tensor, tuple[int, int, int]]:
    """What a convolution reads, one row per output position.

    Args:
        x: Padded codes [N, H, W, C].
        kernel: Height and width of the window.
        stride: Step between windows.
        dilation: Step within a window.

    Returns:
        [N * OH * OW, kh * kw * C] and (N, OH, OW).
    """
    n, height, width, channels = x.shape
    rows = output_size(height, kernel[0], stride[0], dilation[0])
    columns = output_size(width, kernel[1], stride[1], dilation[1])
    if kernel == (1, 1) and stride == (1, 1):
        return x.reshape(-1, channels), (n, rows, columns)
    x = x.contiguous()
    image, row, column, _ = x.stride()
    windows = x.as_strided(
        (n, rows, columns, *kernel, channels),
        (image, row * stride[0], column * stride[1], row * dilation[0], column * dilation[1], 1),
    )
    return windows.reshape(n * rows * columns, -1), (n, rows, columns)
