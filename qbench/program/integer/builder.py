"""What values become while a program is lowered, and the list of integer nodes that grows meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isinf

import torch
from torch import Tensor

from qbench.errors import MethodError
from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.integer.curves import lookup
from qbench.program.integer.layers import LARGEST_BITS
from qbench.program.integer.network import IntegerNode
from qbench.program.integer.ops import Grid, IntegerOp, Requantizer
from qbench.program.materialize import materialize
from qbench.quant.requantize import quantize_multipliers


@dataclass(frozen=True)
class Codes:
    """A value that is there as codes, made by the integer node of that name."""

    name: str
    grid: Grid


@dataclass(frozen=True)
class Target:
    """The grid a value is wanted on, and the codes it is clamped to."""

    grid: Grid
    low: int
    high: int

    @property
    def whole(self) -> bool:
        """Whether nothing but the grid bounds the codes."""
        return (self.low, self.high) == (self.grid.qmin, self.grid.qmax)


@dataclass(frozen=True, eq=False)
class Deferred:
    """A value whose grid is not known yet: that of an activation behind it, or none (the logits).

    Args:
        source: The node that computes it.
        emit: Appends the integer nodes that make it, the last one of the given name; without a target, as sums.
        unit: What 1 in its sums stands for, float64, broadcastable against them; None where it has no sums.
        low: Lower real bound, set by a ReLU behind it.
        high: Upper real bound.
    """

    source: str
    emit: Callable[[str, Target | None], None]
    unit: Tensor | None = None
    low: float = -inf
    high: float = inf


Value = Codes | Deferred


class Builder:
    """The integer nodes so far, and what has become of each value of the program."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.shapes = _shapes(program)
        self.nodes: list[IntegerNode] = []
        self.values: dict[str, Value] = {}

    def append(self, name: str, source: str, inputs: tuple[str, ...], op: IntegerOp) -> None:
        self.nodes.append(IntegerNode(name, source, inputs, op))

    def grid(self, name: str) -> Grid:
        """The grid of an edge, moved so that its codes fit int8: one of 0..255 becomes one of -128..127.

        Raises:
            MethodError: There is none, or it is dynamic or of more than 8 bits.
        """
        spec = self.program.edges.get(name)
        if spec is None:
            raise MethodError(name, "has no grid; quantize activations statically, e.g. with method=integer")
        return _signed(name, spec)

    def codes(self, name: str) -> Codes:
        """A value as codes.

        Raises:
            MethodError: No edge says on which grid.
        """
        value = self.values[name]
        if isinstance(value, Deferred):
            raise MethodError(name, "has no grid; quantize activations statically, e.g. with method=integer")
        return value

    def settle(self, node: Node, value: Value) -> Codes:
        """Bring a value to the grid of its node's edge."""
        grid = self.grid(node.name)
        if isinstance(value, Deferred):
            value.emit(node.name, clamped(grid, value.low, value.high))
        elif value.grid == grid:
            return value
        else:
            table = lookup("identity", value.grid, grid, grid.qmin, grid.qmax)
            # a pooling has made codes of its own name already, on the grid of what it reads
            name = f"{node.name}.requantized" if value.name == node.name else node.name
            self.append(name, node.name, (value.name,), table)
            return Codes(name, grid)
        return Codes(node.name, grid)


def clamped(grid: Grid, low: float, high: float) -> Target:
    """A grid within real bounds."""

    def code(bound: float, beyond: int) -> int:
        if isinf(bound):
            return beyond
        return min(max(round(bound / grid.scale) + grid.zero_point, grid.qmin), grid.qmax)

    return Target(grid, code(low, grid.qmin), code(high, grid.qmax))


def to_target(source: str, unit: Tensor, target: Target | None) -> Requantizer | None:
    """From sums of ``unit`` (float64) to a target; None without one, which leaves them sums."""
    if target is None:
        return None
    return requantizer(source, unit / target.grid.scale, target.grid.zero_point, target.low, target.high)


def requantizer(source: str, factor: Tensor, zero_point: int, low: int, high: int) -> Requantizer:
    """Multiplication by ``factor`` (float64).

    Raises:
        MethodError: No 32-bit multiplier stands for it; names the node.
    """
    try:
        multiplier, right_shift = quantize_multipliers(factor)
    except ValueError as error:
        raise MethodError(source, str(error)) from error
    return Requantizer(multiplier, right_shift, zero_point, low, high)


def _signed(name: str, spec: EdgeSpec) -> Grid:
    if spec.levels is not None:
        raise MethodError(name, "takes shared values of any spacing; integers alone need act_levels=uniform")
    if spec.scale is None or spec.zero_point is None:
        raise MethodError(name, "finds its range while running; integers alone need static ranges")
    if spec.qmax - spec.qmin >= 1 << LARGEST_BITS:
        raise MethodError(name, f"has {spec.bits} bits; integers alone need act_bits of at most {LARGEST_BITS}")
    off = 0 if spec.qmin >= -128 and spec.qmax <= 127 else spec.qmin + 128
    return Grid(spec.scale, spec.zero_point - off, spec.qmin - off, spec.qmax - off)


def _shapes(program: Program) -> dict[str, torch.Size]:
    """The shape of every value for one image, by running the program once."""
    found: dict[str, torch.Size] = {}
    module = materialize(program)
    module.observe = lambda name, value: found.update({name: value.shape})
    with torch.inference_mode():
        module(torch.zeros(1, *program.input_shape))
    return found
