"""Weights and biases of layers as ONNX stores them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from qbench.errors import MethodError
from qbench.program.graph import Node, Program
from qbench.program.integer.layers import unfolded_layer
from qbench.runtime.onnx.grids import Stored, int8_grid
from qbench.runtime.pairs import fits_int16_pairs

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerCodes:
    """A layer in integers: sum((x - zero_point of x) * weight) + bias, times ``unit``.

    Args:
        weight: Codes minus their zero points, within +-255 and in any type that holds them, [O, ...].
        bias: int32 [O], all zero where the layer has none.
        scale: Of the weights, float32 [O].
        unit: What 1 in a sum stands for, float32 [O].
    """

    weight: Array
    bias: Array
    scale: Array
    unit: Array

    @property
    def has_bias(self) -> bool:
        return bool(self.bias.any())

    def one_type(self) -> tuple[Array, int] | None:
        """The weights as int8 and one zero point for all of them (0 where possible), if there is one that fits."""
        if self.weight.dtype == np.int8:
            return self.weight, 0
        low, high = int(self.weight.min(initial=0)), int(self.weight.max(initial=0))
        if high - low > 255:
            return None
        zero_point = min(max(0, -128 - low), 127 - high)
        return (self.weight + zero_point).astype(np.int8), zero_point

    def per_channel(self) -> tuple[Array, Array]:
        """The weights as int8 and a zero point for each channel; one channel never spans more than 256 codes."""
        flat = self.weight.reshape(len(self.weight), -1)
        low, high = flat.min(1, initial=0), flat.max(1, initial=0)
        zero_points = np.minimum(np.maximum(0, -128 - low), 127 - high)
        shape = [-1] + [1] * (self.weight.ndim - 1)
        return (self.weight + zero_points.reshape(shape)).astype(np.int8), zero_points.astype(np.int8)

    def fits_int16_pairs(self, top: int) -> bool:
        """Whether the sum of any two products of one output channel stays within 16 bits.

        Args:
            top: Highest code of the input as uint8.
        """
        one = self.one_type()
        return fits_int16_pairs(one[0] if one is not None else self.per_channel()[0], top)

    def parts(self) -> list[Array]:
        """int8 tensors whose sum the weights are: one where they fit, which they do unless zero points differ."""
        left: Array = self.weight
        if left.dtype == np.int8:
            return [left]
        found: list[Array] = []
        while not found or left.any():
            part = np.clip(left, -128, 127)
            found.append(part.astype(np.int8))
            left = left - part
        return found


def layer_codes(program: Program, node: Node, grid: Stored | None) -> LayerCodes | None:
    """The integers of a layer that reads codes of ``grid``, those of the integer reference.

    None where it has none: it reads floats, its weights are floats or of more than 8 bits or scaled group by group, or
    its sums could leave int32.
    """
    if grid is None:
        return None
    reference = int8_grid(grid)
    try:
        weight, scale, bias = unfolded_layer(program, node, reference)
    except MethodError:
        return None
    unit = (scale.double() * reference.scale).to(torch.float32)
    return LayerCodes(weight.numpy(), bias.numpy(), scale.numpy(), unit.numpy())


def decoded(program: Program, node: Node, role: str) -> Array | None:
    """A tensor of a node in float32; None where an optional one is absent."""
    encoding = program.tensors.get(f"{node.name}.{role}")
    if encoding is None:
        return None
    values: Array = encoding.decode().numpy()
    return values
