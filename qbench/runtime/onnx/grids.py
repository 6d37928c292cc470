"""Grids of activations as the 8-bit types of ONNX store them, and the bounds that a ReLU behind a value puts on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from qbench.program.graph import EdgeSpec, Node, Program
from qbench.program.integer.ops import Grid

_LARGEST_BITS = 8
_BOUNDS = ("relu", "relu6")


@dataclass(frozen=True)
class Stored:
    """A grid moved so that its lowest code is the lowest of the type: r = scale * (q - zero_point).

    What saturation of the type does for the lower end, a clip must do for the upper one where the grid has less than
    8 bits.

    Args:
        scale: Real step, float32.
        zero_point: Code of real zero, as stored.
        top: Highest code, as stored.
        signed: int8, or uint8.
    """

    scale: float
    zero_point: int
    top: int
    signed: bool

    @property
    def bottom(self) -> int:
        """Lowest code, which is the lowest of the type."""
        return -128 if self.signed else 0

    @property
    def type_top(self) -> int:
        """Highest code of the type."""
        return 127 if self.signed else 255

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the codes."""
        return np.dtype(np.int8 if self.signed else np.uint8)

    def real(self, code: int) -> float:
        """What a stored code stands for."""
        return self.scale * (code - self.zero_point)


@dataclass(frozen=True)
class Landing:
    """Where the value of a node is quantized: at the node itself, or behind the ReLUs that alone read it.

    Args:
        names: The values on the way, from the node's own to the quantized one.
        stored: Their grid.
        low: Lowest code that the ReLUs leave.
        high: Highest.
    """

    names: tuple[str, ...]
    stored: Stored
    low: int
    high: int


def storable(spec: EdgeSpec) -> bool:
    """Whether 8 bits hold the codes of a static edge."""
    if spec.scale is None or spec.zero_point is None:
        return False
    return spec.qmax - spec.qmin < 1 << _LARGEST_BITS and spec.qmin <= spec.zero_point <= spec.qmax


def stored(spec: EdgeSpec, signed: bool) -> Stored:
    """How the codes of a storable edge are stored."""
    assert spec.scale is not None and spec.zero_point is not None  # it is storable
    bottom = -128 if signed else 0
    return Stored(spec.scale, spec.zero_point - spec.qmin + bottom, spec.qmax - spec.qmin + bottom, signed)


def int8_grid(grid: Stored) -> Grid:
    """The same grid in int8, as :func:`qbench.program.lower.lower` has it."""
    off = 0 if grid.signed else 128
    return Grid(grid.scale, grid.zero_point - off, grid.bottom - off, grid.top - off)


def landing(program: Program, node: Node, signed: bool) -> Landing | None:
    """Where a node's value is quantized; None where something else than a ReLU reads it first, or nothing does."""
    names, bounds, name = [node.name], [], node.name
    while name not in program.edges:
        readers = program.consumers(name)
        if len(readers) != 1 or readers[0].op not in _BOUNDS:
            return None
        name = readers[0].name
        names.append(name)
        bounds.append(readers[0].op)
    if not storable(program.edges[name]):
        return None
    grid = stored(program.edges[name], signed)
    low = grid.zero_point if bounds else grid.bottom
    high = min(grid.top, round(6.0 / grid.scale) + grid.zero_point) if "relu6" in bounds else grid.top
    return Landing(tuple(names), grid, low, max(low, high))
