"""From the operations of a lowered network to calls of the kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from qbench.program.integer import ops
from qbench.program.integer.network import IntegerNode
from qbench.quant.requantize import INT32_MAX, INT32_MIN
from qbench.runtime.c.constants import Constants
from qbench.runtime.c.values import Value

_SUFFIXES = {torch.int8: "s8", torch.int16: "s16", torch.int32: "s32"}
_LARGEST_SHIFT = 63  # beyond, every result is 0, as in quant/requantize.py


class Emitter:
    """Collects the statements of the network's function, the constants and the kernels they use.

    Args:
        values: Of every node.
        places: Where each value lies: a C expression.
        constants: Where weights and tables are kept.
    """

    def __init__(self, values: Mapping[str, Value], places: Mapping[str, str], constants: Constants) -> None:
        self.values = values
        self.places = places
        self.constants = constants
        self.kernels: set[str] = set()
        self.lines: list[str] = []

    def node(self, node: IntegerNode) -> None:
        """Append what computes a node.

        Raises:
            ValueError: An operation, or a type of its input, that no kernel is for.
        """
        handler = _HANDLERS.get(type(node.op))
        if handler is None:
            raise ValueError(f"node {node.name!r}: {type(node.op).__name__} has no C kernel")
        wanted = (torch.int8, torch.int16) if isinstance(node.op, ops.Lookup) else (torch.int8,)
        strange = [name for name in node.inputs if self.values[name].dtype not in wanted]
        if strange:
            raise ValueError(f"node {node.name!r} reads {strange[0]!r}, which is {self.values[strange[0]].dtype}")
        self.lines.append(f"    {{ /* {comment(node.name)} */")
        handler(self, node, node.op)
        self.lines.append("    }")

    def call(self, kernel: str, *arguments: str | int) -> None:
        """A call of a kernel, which thereby is part of the source."""
        self.kernels.add(kernel)
        self.lines.append(f"        {kernel}({', '.join(map(str, arguments))});")

    def struct(self, kind: str, name: str, *fields: str | int, fixed: bool = True) -> str:
        """A parameter block; ``fixed`` ones hold numbers only. Returns its address."""
        body = ", ".join(map(_number, fields))
        self.lines.append(f"        {'static ' if fixed else ''}const {kind} {name} = {{{body}}};")
        return f"&{name}"

    def requantizer(self, name: str, out: ops.Requantizer | None, made: Value) -> str:
        """The block of a requantization, NULL for none."""
        if out is None:
            return "NULL"
        per_position, per_channel = factor_steps(out.multiplier, made)
        self.kernels.add("qb_requantize")
        shift = (out.right_shift.to(torch.int64) + 31).clamp(max=_LARGEST_SHIFT).to(torch.uint8)
        arrays = [self.constants.add(each) for each in (out.multiplier, shift)]
        grid = (out.zero_point, out.qmin, out.qmax)
        return self.struct("qb_requantizer", name, *arrays, per_position, per_channel, *grid, fixed=False)

    def window(self, source: Value, made: Value, *numbers: int) -> str:
        """The block of what slides over an image."""
        sizes = (source.height, source.width, source.channels, made.height, made.width, made.channels)
        return self.struct("qb_window", "p", *sizes, *numbers)

    def suffix(self, name: str) -> str:
        return _SUFFIXES[self.values[name].dtype]


def factor_steps(multiplier: Tensor, made: Value) -> tuple[int, int]:
    """Whether factors differ per position and per channel of what they make, 0 or 1 each.

    Raises:
        ValueError: They differ in another way.
    """
    shape = tuple(multiplier.shape)
    if multiplier.numel() == 1:
        return 0, 0
    if shape == (made.channels,):
        return 0, 1
    if shape == (made.height, made.width, 1):
        return 1, 0
    raise ValueError(f"factors of shape {shape} do not fit {made.height}x{made.width}x{made.channels} values")


def comment(text: str) -> str:
    """Text that can neither end a comment nor go on in the next line."""
    return "".join(
        letter if letter.isascii() and (letter.isalnum() or letter in "._-+ =,:%") else "_" for letter in text
    )


def _number(field: str | int) -> str:
    names = {INT32_MIN: "INT32_MIN", INT32_MAX: "INT32_MAX"}
    return field if isinstance(field, str) else names.get(field, str(field))


def _weights(e: Emitter, weight: Tensor) -> tuple[str, str]:
    """The constant of a weight, in 8 bits where that holds it, and the suffix of its type."""
    small = bool((weight >= -128).all() and (weight <= 127).all())
    return e.constants.add(weight.to(torch.int8) if small else weight), "s8" if small else "s16"


def _conv2d(e: Emitter, node: IntegerNode, op: ops.Conv2d) -> None:
    source, made = e.values[node.inputs[0]], e.values[node.name]
    outputs, group_channels, height, width = op.weight.shape
    depthwise = op.groups > 1 and group_channels == 1 and outputs == op.groups
    weight, kind = _weights(e, op.weight.permute((2, 3, 0, 1) if depthwise else (0, 2, 3, 1)))
    geometry = (height, width, *op.stride, *op.padding, *op.dilation, op.pad_value)
    p = e.window(source, made, group_channels, outputs // op.groups, *geometry)
    r = e.requantizer("r", op.out, made)
    name = "qb_depthwise" if depthwise else "qb_conv"
    arguments = (e.places[node.inputs[0]], weight, e.constants.add(op.bias), r, e.places[node.name])
    e.call(f"{name}_{kind}_{e.suffix(node.name)}", p, *arguments)


def _linear(e: Emitter, node: IntegerNode, op: ops.Linear) -> None:
    outputs, inputs = op.weight.shape
    weight, kind = _weights(e, op.weight)
    r = e.requantizer("r", op.out, e.values[node.name])
    bias = e.constants.add(op.bias)
    arguments = (inputs, outputs, e.places[node.inputs[0]], weight, bias, r, e.places[node.name])
    e.call(f"qb_linear_{kind}_{e.suffix(node.name)}", *arguments)


def _pair(e: Emitter, node: IntegerNode, zero_points: tuple[int, int]) -> tuple[str, str, str]:
    """The block of two inputs, of which one may be repeated along an axis, and where they lie."""
    made = e.values[node.name]
    steps: list[int] = []
    for name in node.inputs:
        value = e.values[name]
        natural = (value.width * value.channels, value.channels, 1)
        sizes = (value.height, value.width, value.channels)
        steps += [step if size > 1 else 0 for step, size in zip(natural, sizes)]
    p = e.struct("qb_pair", "p", made.height, made.width, made.channels, *steps, *zero_points)
    return p, e.places[node.inputs[0]], e.places[node.inputs[1]]


def _add(e: Emitter, node: IntegerNode, op: ops.Add) -> None:
    p, *inputs = _pair(e, node, op.zero_points)
    made = e.values[node.name]
    moves = [e.requantizer(name, each, made) for name, each in zip(("to_a", "to_b"), op.to_common)]
    r = e.requantizer("r", op.out, made)
    e.call(f"qb_add_{e.suffix(node.name)}", p, *inputs, *moves, 1 << op.left_shift, r, e.places[node.name])


def _multiply(e: Emitter, node: IntegerNode, op: ops.Multiply) -> None:
    p, *inputs = _pair(e, node, op.zero_points)
    r = e.requantizer("r", op.out, e.values[node.name])
    e.call(f"qb_multiply_{e.suffix(node.name)}", p, *inputs, r, e.places[node.name])


def _average_pool(e: Emitter, node: IntegerNode, op: ops.AveragePool) -> None:
    source, made = e.values[node.inputs[0]], e.values[node.name]
    p = e.window(source, made, *(0,) * 10, op.zero_point)
    windows = [e.constants.add(torch.tensor(each, dtype=torch.int32)) for each in (op.rows, op.columns)]
    r = e.requantizer("r", op.out, made)
    e.call(f"qb_average_pool_{e.suffix(node.name)}", p, *windows, e.places[node.inputs[0]], r, e.places[node.name])


def _max_pool(e: Emitter, node: IntegerNode, op: ops.MaxPool) -> None:
    source, made = e.values[node.inputs[0]], e.values[node.name]
    p = e.window(source, made, 1, 1, *op.kernel, *op.stride, *op.padding, 1, 1, 0)
    e.call("qb_max_pool", p, e.places[node.inputs[0]], e.places[node.name])


def _concat(e: Emitter, node: IntegerNode, op: ops.Concat) -> None:
    made = e.values[node.name]
    axis = op.dim - 1 if made.image else 2  # of (height, width, channels); vectors have channels alone
    sizes = (made.height, made.width, made.channels)
    blocks = int(torch.tensor(sizes[:axis]).prod()) if axis else 1
    step, start = made.elements // blocks, 0
    for index, (name, zero_point, move) in enumerate(zip(node.inputs, op.zero_points, op.to_grid)):
        count = e.values[name].elements // blocks
        r = e.requantizer(f"r{index}", move, made)
        zero = 0 if move is None else zero_point  # codes of the same grid are moved as they are
        target = f"{e.places[node.name]} + {start}"
        e.call(f"qb_move_{e.suffix(node.name)}", blocks, count, step, e.places[name], zero, r, target)
        start += count


def _lookup(e: Emitter, node: IntegerNode, op: ops.Lookup) -> None:
    count = e.values[node.name].elements
    table = e.constants.add(op.table)
    source = node.inputs[0]
    e.call(f"qb_lookup_{e.suffix(source)}", count, op.lowest, table, e.places[source], e.places[node.name])


def _floor(e: Emitter, node: IntegerNode, op: ops.Floor) -> None:
    e.call("qb_floor", e.values[node.name].elements, op.lowest, e.places[node.inputs[0]], e.places[node.name])


def _flatten(e: Emitter, node: IntegerNode, op: ops.Flatten) -> None:
    source = e.values[node.inputs[0]]
    if e.places[node.name] != e.places[node.inputs[0]]:  # otherwise it is in order already
        e.call("qb_flatten", source.positions, source.channels, e.places[node.inputs[0]], e.places[node.name])


_HANDLERS: dict[type, Callable[[Emitter, IntegerNode, Any], None]] = {
    ops.Conv2d: _conv2d,
    ops.Linear: _linear,
    ops.Add: _add,
    ops.Multiply: _multiply,
    ops.AveragePool: _average_pool,
    ops.MaxPool: _max_pool,
    ops.Concat: _concat,
    ops.Lookup: _lookup,
    ops.Floor: _floor,
    ops.Flatten: _flatten,
}
