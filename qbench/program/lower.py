"""From a program with uniform weights and static edges to one that computes with integers alone.

The only floats left are the quantizer of the images and the multiplication that makes logits of the last integers.
What is computed in between is what the program simulates, up to the rounding of biases and multipliers and to ties.

    convolution, linear     int8 products, int32 sums and biases, one requantization; ReLU and ReLU6 as its clamp
    add                     inputs rescaled to a common unit of 20 more bits, one requantization
    mul                     product of codes, one requantization
    average pooling         integer sum, division within the requantization
    max pooling, flatten    on codes
    concat                  inputs on another grid are requantized
    curves                  a table: of 256 codes, or of 65535 where the curve is fused with what makes its input
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.program.graph import Node, Program
from qbench.program.integer import ops
from qbench.program.integer.builder import Builder, Codes, Deferred, Target, Value, clamped, requantizer, to_target
from qbench.program.integer.curves import fine_grid, lookup
from qbench.program.integer.layers import integer_layer
from qbench.program.integer.network import IntegerNode, IntegerProgram
from qbench.quant.requantize import INT32_MAX, INT32_MIN

_ADD_SHIFT = 20  # 9-bit differences and 20 bits more leave two bits of int32 for the sum
_CURVES = ("hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu")
_TO_CHANNELS_LAST = {0: 0, 1: 3, 2: 1, 3: 2}


def lower(program: Program) -> IntegerProgram:
    """Lower a program whose weights are uniform codes and whose quantizable edges are all static, at most 8 bits each.

    Float biases are rounded to int32; a channel whose bias would not fit gets coarser weights
    (:func:`qbench.quant.requantize.encode_bias`).

    Raises:
        MethodError: A node that has no integer form, an edge that is missing or dynamic, a sum that could leave int32;
            names the node and what to do.
    """
    builder = Builder(program)
    grid = builder.grid(Program.INPUT)
    builder.values[Program.INPUT] = Codes(IntegerProgram.INPUT, grid)
    for node in program.nodes:
        value = _HANDLERS[node.op](builder, node)
        builder.values[node.name] = builder.settle(node, value) if node.name in program.edges else value
    unit, zero_point = _finish(builder, program.nodes[-1])
    nodes = _reachable(builder.nodes)
    return IntegerProgram(program.input_shape, grid, nodes, unit.to(torch.float32), zero_point)


def _finish(builder: Builder, last: Node) -> tuple[Tensor, int]:
    """Scale and zero point of the output, which stays as it is: sums, or codes where the last value has an edge."""
    value = builder.values[last.name]
    if isinstance(value, Codes):
        return _float64(value.grid.scale), value.grid.zero_point
    if value.unit is None or (value.low, value.high) != (-inf, inf):
        raise MethodError(last.name, f"{last.op} as the last node has no integer form; end the network before it")
    value.emit(last.name, None)
    return value.unit, 0


def _layer(builder: Builder, node: Node) -> Deferred:
    """Convolution or linear layer."""
    x = builder.codes(node.inputs[0])
    found = integer_layer(builder.program, node, x.grid)
    if node.op == "linear" and len(builder.shapes[node.inputs[0]]) != 2:
        raise MethodError(node.name, "reads an image; only a linear layer behind flatten has an integer form")

    def emit(name: str, target: Target | None) -> None:
        out = to_target(node.name, found.unit, target)
        op: ops.IntegerOp
        if node.op == "linear":
            op = ops.Linear(found.weight, found.bias, out)
        else:
            a: Any = node.attrs
            shape = (a["stride"], a["padding"], a["dilation"], a["groups"])
            op = ops.Conv2d(found.weight, found.bias, x.grid.zero_point, *shape, out)
        builder.append(name, node.name, (x.name,), op)

    return Deferred(node.name, emit, found.unit)


def _relu(builder: Builder, node: Node) -> Value:
    """A bound of the value before it, or, where that is there as codes, of those."""
    value = builder.values[node.inputs[0]]
    if isinstance(value, Deferred):
        high = min(value.high, 6.0) if node.op == "relu6" else value.high
        return replace(value, low=max(value.low, 0.0), high=high)
    if node.op == "relu6" or node.name in builder.program.edges:
        return _curve(builder, node)
    builder.append(node.name, node.name, (value.name,), ops.Floor(value.grid.zero_point))
    return Codes(node.name, value.grid)


def _curve(builder: Builder, node: Node) -> Deferred:
    """A table of the codes it reads; where it is fused with what makes its input, of 16-bit codes in between."""
    value = builder.values[node.inputs[0]]

    def emit(name: str, target: Target | None) -> None:
        assert target is not None  # it has no unit, so it is never asked for as sums
        if isinstance(value, Deferred):
            source, grid = f"{name}.input", fine_grid(target.grid)
            value.emit(source, clamped(grid, value.low, value.high))
        else:
            source, grid = value.name, value.grid
        table = lookup(node.op, grid, target.grid, target.low, target.high)
        builder.append(name, node.name, (source,), table)

    return Deferred(node.name, emit)


def _add(builder: Builder, node: Node) -> Deferred:
    left, right = _pair(builder, node)
    largest = max(left.grid.scale, right.grid.scale)
    unit = _float64(2 * largest / (1 << _ADD_SHIFT))
    first, second = (
        requantizer(node.name, _float64(x.grid.scale / (2 * largest)), 0, INT32_MIN, INT32_MAX) for x in (left, right)
    )
    zeros = (left.grid.zero_point, right.grid.zero_point)

    def emit(name: str, target: Target | None) -> None:
        out = to_target(node.name, unit, target)
        builder.append(name, node.name, (left.name, right.name), ops.Add(zeros, (first, second), _ADD_SHIFT, out))

    return Deferred(node.name, emit, unit)


def _multiply(builder: Builder, node: Node) -> Deferred:
    left, right = _pair(builder, node)
    unit = _float64(left.grid.scale * right.grid.scale)
    zeros = (left.grid.zero_point, right.grid.zero_point)

    def emit(name: str, target: Target | None) -> None:
        out = to_target(node.name, unit, target)
        builder.append(name, node.name, (left.name, right.name), ops.Multiply(zeros, out))

    return Deferred(node.name, emit, unit)


def _pair(builder: Builder, node: Node) -> tuple[Codes, Codes]:
    """Both inputs of a node as codes."""
    if len({len(builder.shapes[name]) for name in node.inputs}) != 1:
        raise MethodError(node.name, f"{node.op} of an image and a vector has no integer form")
    left, right = (builder.codes(name) for name in node.inputs)
    return left, right


def _average_pool(builder: Builder, node: Node) -> Deferred:
    x = builder.codes(node.inputs[0])
    size, outputs = builder.shapes[node.inputs[0]][2:], builder.shapes[node.name][2:]
    if size.numel() * 255 > INT32_MAX:
        raise MethodError(node.name, f"its sums over an image of {size[0]} x {size[1]} could leave int32")
    rows, row_divisors = _windows(node, 0, size[0], outputs[0])
    columns, column_divisors = _windows(node, 1, size[1], outputs[1])
    divisors = torch.outer(*(torch.tensor(each, dtype=torch.float64) for each in (row_divisors, column_divisors)))
    alike = bool((divisors == divisors[0, 0]).all())
    unit = x.grid.scale / (divisors[0, 0] if alike else divisors[..., None])

    def emit(name: str, target: Target | None) -> None:
        out = to_target(node.name, unit, target)
        builder.append(name, node.name, (x.name,), ops.AveragePool(x.grid.zero_point, rows, columns, out))

    return Deferred(node.name, emit, unit)


def _windows(node: Node, axis: int, size: int, outputs: int) -> tuple[tuple[ops.Window, ...], list[int]]:
    """The windows of a pooling along an axis, within the image, and what each sum is divided by."""
    a: Any = node.attrs
    if node.op == "adaptive_avg_pool2d":
        windows = [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
        return tuple(windows), [end - start for start, end in windows]
    kernel, stride, padding = a["kernel_size"][axis], a["stride"][axis], a["padding"][axis]
    spans = [(i * stride - padding, min(i * stride - padding + kernel, size + padding)) for i in range(outputs)]
    windows = [(max(start, 0), min(end, size)) for start, end in spans]
    return tuple(windows), [end - start for start, end in (spans if a["count_include_pad"] else windows)]


def _max_pool(builder: Builder, node: Node) -> Codes:
    x = builder.codes(node.inputs[0])
    a: Any = node.attrs
    height, width = builder.shapes[node.name][2:]
    op = ops.MaxPool(a["kernel_size"], a["stride"], a["padding"], (height, width))
    builder.append(node.name, node.name, (x.name,), op)
    return Codes(node.name, x.grid)


def _concat(builder: Builder, node: Node) -> Deferred:
    inputs = [builder.codes(name) for name in node.inputs]
    axes = len(builder.shapes[node.name])
    dim: Any = node.attrs["dim"]
    dim = _TO_CHANNELS_LAST[dim % axes] if axes == 4 else dim
    units = [_float64(x.grid.scale) for x in inputs]
    zeros = tuple(x.grid.zero_point for x in inputs)

    def emit(name: str, target: Target | None) -> None:
        assert target is not None  # it has no unit, so it is never asked for as sums
        moves = tuple(
            None if target.whole and x.grid == target.grid else to_target(node.name, unit, target)
            for x, unit in zip(inputs, units)
        )
        builder.append(name, node.name, tuple(x.name for x in inputs), ops.Concat(dim, zeros, moves))

    return Deferred(node.name, emit)


def _flatten(builder: Builder, node: Node) -> Codes:
    x = builder.codes(node.inputs[0])
    builder.append(node.name, node.name, (x.name,), ops.Flatten())
    return Codes(node.name, x.grid)


def _identity(builder: Builder, node: Node) -> Value:
    return builder.values[node.inputs[0]]


def _batch_norm(builder: Builder, node: Node) -> Value:
    reason = "is a batch norm that no layer before it can take in; integers alone cannot compute it"
    raise MethodError(node.name, f"{reason} (fold_batch_norm folds the others)")


_HANDLERS: dict[str, Callable[[Builder, Node], Value]] = {
    "conv2d": _layer,
    "linear": _layer,
    "batch_norm": _batch_norm,
    "relu": _relu,
    "relu6": _relu,
    **dict.fromkeys(_CURVES, _curve),
    "add": _add,
    "mul": _multiply,
    "concat": _concat,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _average_pool,
    "flatten": _flatten,
    "identity": _identity,
}


def _float64(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def _reachable(nodes: list[IntegerNode]) -> tuple[IntegerNode, ...]:
    """The nodes that the last one depends on, which is the output."""
    needed = {node.name for node in nodes[-1:]}
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.inputs)
    return tuple(node for node in nodes if node.name in needed)
