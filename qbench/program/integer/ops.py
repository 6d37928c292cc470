"""The operations of an integer program: dataclasses that hold integers only and compute with integers only.

Images are [N, H, W, C] here (channels last, so that the channels of a window are neighbours in memory), everything else
is [N, K]. Codes are int8 (int16 where a curve follows), sums int32, the products inside a requantization int64.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from qbench.program.integer.matmul import Pair, int8_matmul, int8_parts, output_size, pad_images, patches
from qbench.quant.affine import code_dtype
from qbench.quant.requantize import requantize

Window = tuple[int, int]  # first position, position after the last


class IntegerOp(Protocol):
    """Integers in, integers out."""

    def __call__(self, *inputs: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Grid:
    """What a code stands for: r = scale * (q - zero_point), q in [qmin, qmax]."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int


@dataclass(frozen=True, eq=False)
class Requantizer:
    """From sums to codes of an output grid; see :mod:`qbench.quant.requantize`.

    Args:
        multiplier: int32, broadcastable against the sums: [], [C] or [OH, OW, 1].
        right_shift: int32, likewise.
        zero_point: Of the output grid.
        qmin: Lowest code; that of real zero behind a ReLU.
        qmax: Highest code.
    """

    multiplier: Tensor
    right_shift: Tensor
    zero_point: int
    qmin: int
    qmax: int

    def __call__(self, acc: Tensor) -> Tensor:
        codes = requantize(
            acc, self.multiplier, self.right_shift, zero_point=self.zero_point, qmin=self.qmin, qmax=self.qmax
        )
        return codes.to(code_dtype(self.qmin, self.qmax))

    @property
    def is_shift(self) -> bool:
        """Whether every factor is a power of two."""
        return bool((self.multiplier == 1 << 30).all())


def _finished(acc: Tensor, out: Requantizer | None) -> Tensor:
    return acc if out is None else out(acc)


@dataclass(frozen=True, eq=False)
class Conv2d:
    """Convolution.

    Args:
        weight: Codes minus their zero point, int16 [O, I / groups, kh, kw], within +-255.
        bias: int32 [O], less the input's zero point times the sum of the weights, so that codes are summed as they are.
        pad_value: The input's zero point, which padding stands for.
        stride, padding, dilation: Pairs.
        groups: As in torch.
        out: None leaves the sums as they are (int32).
    """

    weight: Tensor
    bias: Tensor
    pad_value: int
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    out: Requantizer | None

    @cached_property
    def _columns(self) -> list[tuple[Tensor, ...]]:
        """Per group the int8 matrices [kh * kw * I / groups, O / groups] whose products are summed."""
        matrices = [group.permute(2, 3, 1, 0).flatten(0, 2) for group in self.weight.chunk(self.groups)]
        return [int8_parts(matrix.contiguous()) for matrix in matrices]

    def __call__(self, *inputs: Tensor) -> Tensor:
        x = pad_images(inputs[0], self.padding, self.padding, self.pad_value)
        acc = self._depthwise(x) if self.groups > 1 and self.weight.shape[1] == 1 else self._grouped(x)
        acc += self.bias
        return _finished(acc, self.out)

    def _grouped(self, x: Tensor) -> Tensor:
        kernel = (self.weight.shape[2], self.weight.shape[3])
        sums = []
        for part, matrices in zip(x.chunk(self.groups, dim=-1), self._columns):
            rows, positions = patches(part, kernel, self.stride, self.dilation)
            acc = int8_matmul(rows, matrices[0])
            for matrix in matrices[1:]:
                acc += int8_matmul(rows, matrix)
            sums.append(acc.reshape(*positions, -1))
        return sums[0] if len(sums) == 1 else torch.cat(sums, dim=-1)

    def _depthwise(self, x: Tensor) -> Tensor:
        """One input channel per group: too little for a matrix product, so shifted images are added up."""
        outputs, _, height, width = self.weight.shape
        rows = output_size(x.shape[1], height, self.stride[0], self.dilation[0])
        columns = output_size(x.shape[2], width, self.stride[1], self.dilation[1])
        x = x.to(torch.int32)
        if outputs != self.groups:
            x = x.repeat_interleave(outputs // self.groups, dim=-1)
        weight = self.weight.to(torch.int32)
        acc = x.new_zeros(len(x), rows, columns, outputs)
        for i in range(height):
            for j in range(width):
                top, left = i * self.dilation[0], j * self.dilation[1]
                bottom, right = top + (rows - 1) * self.stride[0] + 1, left + (columns - 1) * self.stride[1] + 1
                shifted = x[:, top : bottom : self.stride[0], left : right : self.stride[1]]
                acc.addcmul_(shifted, weight[:, 0, i, j])
        return acc


@dataclass(frozen=True, eq=False)
class Linear:
    """Matrix product; ``weight`` int16 [O, I], the rest as in :class:`Conv2d`."""

    weight: Tensor
    bias: Tensor
    out: Requantizer | None

    @cached_property
    def _columns(self) -> tuple[Tensor, ...]:
        return int8_parts(self.weight.t().contiguous())

    def __call__(self, *inputs: Tensor) -> Tensor:
        acc = int8_matmul(inputs[0], self._columns[0])
        for matrix in self._columns[1:]:
            acc += int8_matmul(inputs[0], matrix)
        acc += self.bias
        return _finished(acc, self.out)


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of two inputs, each brought to a common unit first.

    Args:
        zero_points: Of the inputs.
        to_common: From ``(q - zero_point) << left_shift`` of an input to the common unit, int32.
        left_shift: Bits gained before, so that rounding to the common unit costs next to nothing.
        out: From the sum to codes.

    Source: TFLite's quantized addition.
    """

    zero_points: Pair
    to_common: tuple[Requantizer, Requantizer]
    left_shift: int
    out: Requantizer | None

    def __call__(self, *inputs: Tensor) -> Tensor:
        terms = [
            rescale((x.to(torch.int32) - zero_point) << self.left_shift)
            for x, zero_point, rescale in zip(inputs, self.zero_points, self.to_common)
        ]
        acc = terms[0] + terms[1]
        return _finished(acc, self.out)


@dataclass(frozen=True, eq=False)
class Multiply:
    """Product of two inputs, whose unit is the product of theirs."""

    zero_points: Pair
    out: Requantizer | None

    def __call__(self, *inputs: Tensor) -> Tensor:
        one, other = (x.to(torch.int32) - zero_point for x, zero_point in zip(inputs, self.zero_points))
        acc = one * other
        return _finished(acc, self.out)


@dataclass(frozen=True, eq=False)
class AveragePool:
    """Sum over windows; dividing by their size is left to the requantization.

    Args:
        zero_point: Of the input.
        rows: First row and row after the last of each window, within the image.
        columns: The same for columns.
        out: Its multiplier is [] or, where windows differ in size, [OH, OW, 1].
    """

    zero_point: int
    rows: tuple[Window, ...]
    columns: tuple[Window, ...]
    out: Requantizer | None

    def __call__(self, *inputs: Tensor) -> Tensor:
        acc = inputs[0].to(torch.int32) - self.zero_point
        for axis, windows in ((1, self.rows), (2, self.columns)):
            upto = torch.cat([torch.zeros_like(acc.narrow(axis, 0, 1)), acc.cumsum(axis, dtype=torch.int32)], axis)
            starts, ends = (torch.tensor(column) for column in zip(*windows))
            acc = upto.index_select(axis, ends) - upto.index_select(axis, starts)
        return _finished(acc, self.out)


@dataclass(frozen=True)
class MaxPool:
    """Largest code of each window; the output is on the grid of the input. ``output_size`` is (OH, OW)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    output_size: Pair

    def __call__(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        spans = [(count - 1) * step + 1 for count, step in zip(self.output_size, self.stride)]
        below, right = (
            max(0, span + window - 1 - size - before)  # what ceil_mode reaches beyond the padding
            for span, window, size, before in zip(spans, self.kernel, x.shape[1:3], self.padding)
        )
        x = pad_images(x, self.padding, (below, right), torch.iinfo(x.dtype).min)
        largest: Tensor | None = None
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                shifted = x[:, i : i + spans[0] : self.stride[0], j : j + spans[1] : self.stride[1]]
                largest = shifted if largest is None else torch.maximum(largest, shifted)
        assert largest is not None  # a kernel has at least one position
        return largest


@dataclass(frozen=True, eq=False)
class Concat:
    """Inputs side by side along ``dim`` of the layout here; ``to_grid`` is None for those on the output's grid."""

    dim: int
    zero_points: tuple[int, ...]
    to_grid: tuple[Requantizer | None, ...]

    def __call__(self, *inputs: Tensor) -> Tensor:
        moved = [
            x if rescale is None else rescale(x.to(torch.int32) - zero_point)
            for x, zero_point, rescale in zip(inputs, self.zero_points, self.to_grid)
        ]
        return torch.cat(moved, dim=self.dim)


@dataclass(frozen=True, eq=False)
class Lookup:
    """A curve as a table: the output code of every input code from ``lowest`` on."""

    table: Tensor
    lowest: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return self.table.take(inputs[0].to(torch.int64) - self.lowest)


@dataclass(frozen=True)
class Floor:
    """No code below ``lowest``: a ReLU on codes."""

    lowest: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return inputs[0].clamp(min=self.lowest)


@dataclass(frozen=True)
class Flatten:
    """Images as rows, in the order [C, H, W]."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        x = inputs[0]
        return x.permute(0, 3, 1, 2).flatten(1) if x.dim() == 4 else x
