"""Where activations live while a program runs: which values get memory, at how many bits, and how much at once.

Two views of the same graph:

    float32   every op writes its output: what eager PyTorch does, simulated edges included
    deployed  an elementwise op works on the only value it reads in place, fused with what made it, and a value on a
              quantized edge takes that edge's bits: what an engine or a microcontroller does
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from qbench.program.graph import Program
from qbench.program.shapes import shapes

FLOAT32_BITS = 32
FLOAT32_BYTES = 4
# Ops whose outputs all occur among their inputs' values (relu6 adds its bound): the grid of the input still holds.
_VALUE_PRESERVING = ("max_pool2d", "flatten", "relu", "relu6", "identity")
_VIEWS = ("flatten", "identity")  # ops that need no memory of their own
_ELEMENTWISE = ("batch_norm", "relu", "relu6", "hard_swish", "hard_sigmoid", "sigmoid", "silu", "gelu")


def grid_bits(program: Program, value: str) -> int | None:
    """Bits of the quantized edge whose grid a value lies on; None for floats.

    Seen through ops that only pass values on (max pooling, flatten, relu, relu6, identity).

    Args:
        program: Any program.
        value: Name of a node, or "input".
    """
    sources = {node.name: node.inputs[0] for node in program.nodes if node.op in _VALUE_PRESERVING}
    while value not in program.edges:
        if value not in sources:
            return None
        value = sources[value]
    return program.edges[value].bits


def storage(program: Program) -> dict[str, str]:
    """Which value's memory each value is in, itself or another's, where elementwise ops are fused.

    A view lives in what it is a view of. An elementwise op overwrites its input where nothing else reads that; the
    images handed in are never overwritten.
    """
    owner = {Program.INPUT: Program.INPUT}
    free = {Program.INPUT: False}  # whether the only reader of a value may overwrite it
    for node in program.nodes:
        source = node.inputs[0]
        overwrites = node.op in _ELEMENTWISE and free[source]
        owner[node.name] = owner[source] if node.op in _VIEWS or overwrites else node.name
        alone = len(program.consumers(node.name)) == 1
        free[node.name] = alone and (free[source] if node.op in _VIEWS else True)
    return owner


def stored_bits(program: Program, owner: Mapping[str, str]) -> dict[str, int]:
    """Bits of one image's worth of every value that has memory of its own (see :func:`storage`).

    They are those of the last value written there: elements times bits of its grid, 32 for floats.
    """
    last = {memory: value for value, memory in owner.items()}
    found = shapes(program)
    return {
        memory: math.prod(found[value]) * (grid_bits(program, value) or FLOAT32_BITS) for memory, value in last.items()
    }


def activation_bytes_peak(program: Program) -> int:
    """Most bytes of activations alive at once for one image when deployed: elementwise ops fused, edges at their bits.

    A value lives from the node that makes it (the input: from the start) to its last reader; while a node runs its
    inputs and its output are both alive. A value of n elements on an edge of b bits takes n * b / 8 bytes, rounded
    up. Sums inside a kernel and its scratch memory are not counted.
    """
    owner = storage(program)
    sizes = {memory: -(-bits // 8) for memory, bits in stored_bits(program, owner).items()}
    return _peak(program, owner, sizes.__getitem__)


def activation_high_water_bytes(program: Program, batch_size: int) -> int:
    """Most bytes of float32 activations alive at once when nodes run one by one, in order, each into fresh memory.

    A value lives from the node that makes it (the input: from the start) to its last reader; while a node runs its
    inputs and its output are both alive. flatten and identity are views. Scratch memory of kernels is not counted.

    Raises:
        ValueError: batch_size < 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")
    owner = {Program.INPUT: Program.INPUT}
    for node in program.nodes:
        owner[node.name] = owner[node.inputs[0]] if node.op in _VIEWS else node.name
    found = shapes(program)
    return _peak(program, owner, lambda name: math.prod(found[name])) * FLOAT32_BYTES * batch_size


def _peak(program: Program, owner: Mapping[str, str], size: Callable[[str], int]) -> int:
    """The largest sum of the sizes of memories alive at once."""
    last_use = {Program.INPUT: 0}
    for step, node in enumerate(program.nodes):
        for name in (*node.inputs, node.name):
            last_use[owner[name]] = step
    last_use[owner[program.nodes[-1].name]] = len(program.nodes)  # the caller keeps the output
    alive = peak = size(Program.INPUT)
    for step, node in enumerate(program.nodes):
        if owner[node.name] == node.name:
            alive += size(node.name)
            peak = max(peak, alive)
        alive -= sum(size(name) for name, last in last_use.items() if last == step)
    return peak
