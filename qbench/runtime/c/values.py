"""The values of a lowered network: their shapes, what each node makes and until when it is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qbench.program.integer import ops
from qbench.program.integer.network import IntegerModule, IntegerProgram
from qbench.runtime.c.arena import Lifetime


@dataclass(frozen=True)
class Value:
    """What a node makes of one image, channels last; a vector has height and width 1."""

    height: int
    width: int
    channels: int
    dtype: torch.dtype
    image: bool

    @property
    def elements(self) -> int:
        return self.height * self.width * self.channels

    @property
    def positions(self) -> int:
        return self.height * self.width


def values_of(program: IntegerProgram) -> dict[str, Value]:
    """Every value of a program (and "input"), found by running the reference executor on one image of real zeros."""
    found: dict[str, Value] = {}

    def note(name: str, value: Tensor) -> None:
        height, width = (value.shape[1], value.shape[2]) if value.dim() == 4 else (1, 1)
        found[name] = Value(height, width, value.shape[-1], value.dtype, value.dim() == 4)

    channels, height, width = program.input_shape
    module = IntegerModule(program)
    module.observe = note
    with torch.inference_mode():
        module.run(torch.full((1, height, width, channels), program.input.zero_point, dtype=torch.int8))
    return found


def aliases(program: IntegerProgram, values: Mapping[str, Value]) -> dict[str, str]:
    """Values that lie where another one lies: a flattening that changes no order. Name -> the other's name."""
    same: dict[str, str] = {}
    for node in program.nodes:
        source = values[node.inputs[0]]
        if isinstance(node.op, ops.Flatten) and (source.positions == 1 or source.channels == 1):
            same[node.name] = same.get(node.inputs[0], node.inputs[0])
    return same


def lifetimes(
    program: IntegerProgram, values: Mapping[str, Value], same: Mapping[str, str], outside: frozenset[str]
) -> list[Lifetime]:
    """When each value that needs memory is needed; ``outside`` are those that lie in memory of the caller."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for step, node in enumerate(program.nodes):
        for name in (node.name, *node.inputs):
            place = same.get(name, name)
            first.setdefault(place, step)
            last[place] = step
    names = [name for name in first if name not in outside]
    return [Lifetime(name, values[name].elements, first[name], last[name]) for name in names]
